"""Bad rows and bad tool files: each gives one error that names it."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from verl_atpo.config import ConfigError
from verl_atpo.startup.checks import check_tool_files
from verl_atpo.startup.data_checks import check_rows

MULTI_TURN = "actor_rollout_ref.rollout.multi_turn"


class Tokenizer:
    def apply_chat_template(self, messages, **kwargs) -> list[int]:
        return [0] * sum(len(message["content"]) for message in messages)


def row(content: str = "what?", **fields):
    return {"raw_prompt": [{"role": "user", "content": content}], "extra_info": {"index": 7}, **fields}


def check(*rows: dict, truncation: str = "error") -> None:
    config = OmegaConf.create({"data": {"max_prompt_length": 10, "truncation": truncation}})
    check_rows(list_of_dict_to_tensordict(list(rows)), config, Tokenizer(), ["search"])


def test_good_rows():
    check(row(), row("short"))
    check(row("much too long, and cut as the user wants"), truncation="left")
    check({"raw_prompt": [{"role": "user", "content": [{"type": "image"}]}], "extra_info": None})
    check(row(extra_info={"tool_selection": ["search"]}, tools_kwargs={"search": {"create_kwargs": {}}}))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(""), r"row 1 .*'index': 7.* is empty"),
        (row("much too long"), r"13 tokens, more than data\.max_prompt_length=10.*filter_overlong_prompts"),
        (row(extra_info={"tool_selection": ["serach"]}), r"tool_selection of row 1.*\['serach'\].*only \['search'\]"),
    ],
)
def test_bad_rows(bad, message):
    with pytest.raises(ConfigError, match=message):
        check(row(), bad)


def test_unknown_tools_in_tools_kwargs():
    with pytest.raises(ConfigError, match=r"tools_kwargs of row 0.*\['play'\]"):
        check(row(tools_kwargs={"play": {}}))


def tool_config(path: str) -> object:
    return OmegaConf.create({"actor_rollout_ref": {"rollout": {"multi_turn": {"tool_config_path": path}}}})


ENTRY = "tools:\n  - class_name: a.B\n    config: {type: native}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        ("tools: [", "the file is no YAML"),
        ("tools: {}", "a list `tools`"),
        ("tools:\n  - config: {type: native}\n", "needs `class_name"),
        ("tools:\n  - class_name: a.B\n", "needs `config"),
        (ENTRY + "    tool_schema: {type: function, function: {description: d}}\n", r"without function\.name"),
    ],
)
def test_bad_tool_files(tmp_path, content, message):
    file = tmp_path / "tools.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=f"tool_config_path=.*{message}"):
        check_tool_files(tool_config(str(file)))


def test_good_tool_files(tmp_path):
    (tmp_path / "tools.yaml").write_text(ENTRY + "    tool_schema: {type: function, function: {name: search}}\n")
    check_tool_files(tool_config(str(tmp_path / "tools.yaml")))
    check_tool_files(OmegaConf.create({}))
