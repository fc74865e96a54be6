"""Agent loops that cannot grow trees: in the config, in a file of the user's own, in the data."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from verl_atpo.config import ConfigError
from verl_atpo.startup.rules.loops import RULES
from verl_atpo.startup.rules.rule import Run, broken
from verl_atpo.startup.verl_config import TREE_MANAGER


def check_loops(config: object) -> list[str]:
    """Raise for the first broken rule of loops; the warnings that came before it."""
    warnings = []
    for rule, message in broken(RULES, Run(config)):
        if not rule.warns:
            raise ConfigError(message)
        warnings.append(message)
    return warnings


LOOP = "{name: mine, _target_: verl_atpo.search_qa.tag_agent.TagAgentLoop}"


def config(loop: str = "tool_agent", loops: object = None, data: object = None, **multi_turn: object):
    agent = {
        "default_agent_loop": loop,
        "agent_loop_config_path": loops and str(loops),
        "agent_loop_manager_class": TREE_MANAGER,
    }
    rollout = {"agent": agent, "multi_turn": {"format": "hermes", **multi_turn}}
    return OmegaConf.create({"data": {"train_files": data}, "actor_rollout_ref": {"rollout": rollout}})


@pytest.fixture
def data(tmp_path):
    def write(**columns):
        pq.write_table(pa.table({"prompt": ["a"], **columns}), tmp_path / "train.parquet")
        return [str(tmp_path / "train.parquet")]

    return write


def test_a_loop_of_one_turn_is_refused_unless_the_rows_name_another(data):
    with pytest.raises(ConfigError, match=r"single_turn_agent cannot work: .*default_agent_loop=tool_agent.*no column"):
        check_loops(config("single_turn_agent", data=data()))
    assert not check_loops(config("single_turn_agent", data=data(agent_name=["tool_agent"])))
    (warning,) = check_loops(config("single_turn_agent", data="hdfs://elsewhere/train.parquet"))
    assert "unless every data row names its agent_name" in warning


def test_data_that_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "train.parquet").write_text("no parquet")
    with pytest.raises(ConfigError, match=r"data\.train_files=.*no readable parquet"):
        check_loops(config(data=str(tmp_path / "train.parquet")))


def test_a_tool_agent_without_tools_has_one_turn():
    with pytest.raises(ConfigError, match=r"tool_agent cannot work: without tools .*tool_config_path"):
        check_loops(config())
    check_loops(config(tool_config_path="tools.yaml"))


@pytest.mark.fault("Start-up", "files of agent loops that cannot work", "refused with file, entry and remedy")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "expected a list with an entry per agent loop"),
        ("name: mine", "expected a list with an entry per agent loop"),
        ("- mine", "loop 1 needs `name` and `_target_"),
        ("- {name: mine}", "loop 1 needs `name` and `_target_"),
        (f"- {LOOP}\n- {{_target_: a.B}}", "loop 2 needs `name`"),
        ("- {name: mine, _target_: no.such.Loop}", "cannot be imported: ModuleNotFoundError.*PYTHONPATH"),
        ("- {name: mine, _target_: verl_atpo.search_qa.tag_agent.TagLoop}", "has no class TagLoop.*TagAgentLoop"),
        ("- {name: mine, _target_: tests.assets.broken_module.Loop}", "RuntimeError: broken on purpose"),
        (f"- {LOOP}", "default_agent_loop=mein cannot work: expected one of mine, .*Did you mean mine"),
    ],
)
def test_bad_files_of_loops(tmp_path, monkeypatch, content, message):
    broken = tmp_path / "broken_module.py"
    broken.write_text("raise RuntimeError('broken on purpose')")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "loops.yaml"
    if content is not None:
        file.write_text(content.replace("tests.assets.broken_module", "broken_module"))
    with pytest.raises(ConfigError, match=message) as refused:
        check_loops(config("mein", loops=file))
    assert len(str(refused.value)) < 1000


def test_a_good_file_of_loops(tmp_path):
    (tmp_path / "loops.yaml").write_text(f"- {LOOP}")
    check_loops(config("mine", loops=tmp_path / "loops.yaml", format="of its own"))
