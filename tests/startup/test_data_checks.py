"""Bad rows and bad tool files: each gives one error that names it."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from verl_atpo.config import ConfigError
from verl_atpo.startup.data_checks import check_rows
from verl_atpo.startup.rules.tool_files import check_tool_files

MULTI_TURN = "actor_rollout_ref.rollout.multi_turn"


class Tokenizer:
    def apply_chat_template(self, messages, **kwargs) -> list[int]:
        return [0] * sum(len(message["content"]) for message in messages)


def row(content: str = "what?", **fields):
    return {"raw_prompt": [{"role": "user", "content": content}], "extra_info": {"index": 7}, **fields}


def check(*rows: dict, truncation: str = "error") -> None:
    config = OmegaConf.create(
        {
            "data": {"max_prompt_length": 10, "truncation": truncation},
            "reward": {"reward_manager": {"name": "naive"}},
        }
    )
    check_rows(list_of_dict_to_tensordict(list(rows)), config, Tokenizer(), ["search"])


def test_good_rows():
    check(row(), row("short"))
    check(row("much too long, and cut as the user wants"), truncation="left")
    check({"raw_prompt": [{"role": "user", "content": [{"type": "image"}]}], "extra_info": None})
    check(row(extra_info={"tool_selection": ["search"]}, tools_kwargs={"search": {"create_kwargs": {}}}))


class ChatTokenizer(Tokenizer):
    """Renders contents that are texts, and no others; schemas of tools count a token a character."""

    def apply_chat_template(self, messages, tools=(), tokenize=True, **kwargs):
        texts = [message["content"] if isinstance(message["content"], str) else "" for message in messages]
        rendered = "".join([*texts, *(str(tool) for tool in tools)])
        return [0] * len(rendered) if tokenize else rendered


class ListTokenizer(Tokenizer):
    """Writes whatever a content is."""

    def apply_chat_template(self, messages, tokenize=True, **kwargs):
        rendered = "".join(str(message["content"]) for message in messages)
        return [0] if tokenize else rendered


class PartsTokenizer(Tokenizer):
    """Renders the texts of parts."""

    def apply_chat_template(self, messages, tokenize=True, **kwargs):
        rendered = "".join(part["text"] for message in messages for part in message["content"])
        return [0] if tokenize else rendered


def refused(rows: list[dict], tokenizer: object, settings: dict | None = None, **known: object) -> str:
    config = OmegaConf.create(
        {
            "data": {"max_prompt_length": 10, "truncation": "error", **(settings or {})},
            "actor_rollout_ref": {"rollout": {"agent": {"default_agent_loop": "tool_agent"}}},
        }
    )
    try:
        check_rows(list_of_dict_to_tensordict(rows), config, tokenizer, ["search"], **known)
    except ConfigError as error:
        assert "row 0 of the batch" in str(error) and "'index': 7" in str(error)
        return str(error)
    return ""


PARTS = [{"type": "text", "text": "what?", "image": None}]


@pytest.mark.parametrize("tokenizer", [ChatTokenizer(), ListTokenizer()], ids=["left out", "as a list"])
def test_parts_that_a_template_for_texts_loses_are_refused(tokenizer):
    assert "Write the content as one text" in refused([said(PARTS)], tokenizer)
    assert refused([said("what?")], tokenizer) == ""


def test_parts_that_a_template_renders_pass():
    assert refused([said(PARTS)], PartsTokenizer()) == ""


@pytest.mark.parametrize("kind", ["image", "image_url", "video", "audio"])
def test_media_need_a_model_that_reads_them(kind):
    row = said([{"type": kind, kind: "x"}, {"type": "text", "text": "what?"}])
    assert kind in refused([row], ChatTokenizer(), multimodal=False)
    assert refused([row], ChatTokenizer(), multimodal=True) == ""


@pytest.mark.parametrize("content", ["a\ud83d", "\ude00b", [{"type": "text", "text": "a \ud83d b"}]], ids=ascii)
def test_half_a_surrogate_pair_is_refused(content):
    assert "half a surrogate pair" in refused([said(content)], ChatTokenizer())
    assert refused([said("a \U0001f600")], ChatTokenizer()) == ""


def test_schemas_of_tools_count():
    """5 characters of prompt and 32 of the schema; a limit of 37 is enough for both."""
    known = {"schemas": [{"function": {"name": "search"}}]}
    for truncation in ("error", "left"):
        message = refused([said("what?")], ChatTokenizer(), {"truncation": truncation}, **known)
        assert "37 tokens" in message and "schemas of 1 tools" in message and "max_prompt_length=10" in message
    assert refused([said("what?")], ChatTokenizer(), {"max_prompt_length": 37}, **known) == ""
    assert refused([said("what?", agent_name="single_turn_agent")], ChatTokenizer(), **known) == ""
    assert "schemas" in refused(
        [said("what?", extra_info={"index": 7, "tool_selection": ["search"]})], ChatTokenizer(), **known
    )


def test_a_template_that_raises_is_named():
    class Strict(Tokenizer):
        def apply_chat_template(self, messages, **kwargs):
            raise ValueError("roles must alternate")

    assert "roles must alternate" in refused([said("what?")], Strict())


def said(content, role="user", **fields):
    return {"raw_prompt": [{"role": role, "content": content}], "extra_info": {"index": 7}, **fields}


def messages(*prompt, **fields):
    return {"raw_prompt": list(prompt), "extra_info": {"index": 7}, **fields}


BAD = [
    (row(""), "'index': 7", "is empty", "Remove the row"),
    (row("  "), "is empty"),
    (row("\n\t"), "is empty"),
    (messages(), "is empty"),
    (said(None), "is empty"),
    (said([]), "is empty"),
    (messages({"role": "system", "content": ""}, {"role": "user", "content": " "}), "is empty"),
    (row("much too long"), "13 tokens, more than data.max_prompt_length=10", "filter_overlong_prompts"),
    (messages({"role": "system", "content": "abcdef"}, {"role": "user", "content": "ghijk"}), "11 tokens"),
    ({"raw_prompt": "what?", "extra_info": {}}, "is 'what?': expected a list of messages", "chat messages"),
    ({"raw_prompt": "", "extra_info": {}}, "expected a list of messages"),
    ({"raw_prompt": 5, "extra_info": {}}, "is 5: expected a list of messages"),
    ({"raw_prompt": {"role": "user", "content": "a"}, "extra_info": {}}, "expected a list of messages"),
    (messages("what?"), "has the message 'what?'", '{"role": "user"'),
    (messages(["user", "what?"]), "has the message ['user', 'what?']"),
    (messages({"content": "what?"}), "has the message {'content': 'what?'}"),
    (messages({"role": None, "content": "what?"}), "has the message"),
    (messages({"role": 3, "content": "what?"}), "has the message"),
    (messages({"role": "human", "content": "what?"}), "role='human': expected one of system, user"),
    (messages({"role": "User", "content": "what?"}), "Did you mean user?"),
    (messages({"role": "assistent", "content": "what?"}), "Did you mean assistant?"),
    (said(5), "whose content is 5"),
    (said({"text": "what?"}), "whose content is {'text': 'what?'}"),
    (row(extra_info={"tool_selection": ["serach"]}), "tool_selection of row 1", "['serach']", "only ['search']"),
    (row(extra_info={"tool_selection": "search"}), "tool_selection of row 1", "is 'search': expected a list of names"),
    (row(extra_info={"tool_selection": {"search": 1}}), "expected a list of names"),
    (row(tools_kwargs={"play": {}}), "tools_kwargs of row 1", "['play']", "tool_config_path"),
    (row(tools_kwargs={"search": [1]}), "tools_kwargs of row 1", 'expected a mapping {"create_kwargs": {...}}'),
    (row(tools_kwargs={"search": {"create_kwargs": "{}"}}), "tools_kwargs of row 1", "for the tool 'search'"),
    (row(tools_kwargs={"search": {"create_kwarg": {"a": 1}}}), "has 'create_kwarg'", "Did you mean create_kwargs?"),
    ({**row(), "raw_prompt": [{"role": "user", "content": b"who"}]}, "whose content is b'who'", "expected a text"),
    (row(tools_kwargs=["search"]), "tools_kwargs of row 1", "expected a mapping, got list"),
    (row(extra_info="index 7"), "extra_info of row 1", "expected a mapping, got str"),
    (row(extra_info=[7]), "extra_info of row 1", "expected a mapping, got list"),
    (row(data_source=3), "data_source of row 1", "expected a str, got int"),
    (row(data_source=["nq"]), "data_source of row 1", "expected a str, got list"),
    (row(reward_model="42"), "reward_model of row 1", "expected a mapping, got str"),
    (row(reward_model={"style": "rule"}), "reward_model of row 1", "expected an entry ground_truth"),
    (row(reward_model={}), "expected an entry ground_truth"),
    (row(agent_name=1), "agent_name of row 1", "expected a str, got int"),
]


def test_the_table_is_long_enough():
    assert len(BAD) >= 30


@pytest.mark.fault("Start-up", "data rows that cannot work", "refused with the row and what is expected")
@pytest.mark.parametrize(("bad", *("words",)), [(case[0], case[1:]) for case in BAD], ids=lambda case: str(case)[:60])
def test_bad_rows(bad, words):
    good = {"data_source": "nq", "reward_model": {"ground_truth": "4"}, "agent_name": "tool_agent", "tools_kwargs": {}}
    with pytest.raises(ConfigError) as refused:
        check({**row(), **good}, {**good, **bad})
    message = str(refused.value)
    assert "row 1 of the batch" in message and len(message) < 1000
    for word in words:
        assert word in message


def test_a_huge_row_does_not_make_a_huge_message():
    with pytest.raises(ConfigError) as refused:
        check(row(extra_info={"note": "x" * 100_000, "tool_selection": ["serach"]}))
    assert len(str(refused.value)) < 1000


def tool_config(path: str) -> object:
    return OmegaConf.create({"actor_rollout_ref": {"rollout": {"multi_turn": {"tool_config_path": path}}}})


ENTRY = "tools:\n  - class_name: verl_atpo.search_qa.search_tool.SearchTool\n    config: {type: native}\n"


TOOL = "verl_atpo.search_qa.search_tool.SearchTool"
SCHEMA = (
    "    tool_schema: {type: function, function: {name: search, description: d, "
    "parameters: {type: object, properties: {}, required: []}}}\n"
)


@pytest.mark.fault("Start-up", "files of tools that cannot work", "refused with file, entry and remedy")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("tools: [", "the file is no YAML"),
        (b"tools: \xff\xfe", "the file is no YAML"),
        ("", "a list `tools`"),
        ("tools: {}", "a list `tools`"),
        ("- tools", "a list `tools`"),
        ("tools: ${oc.env:NO_SUCH_VARIABLE}", "the file cannot be read: .*NO_SUCH_VARIABLE"),
        ("tools: [search]", "tool 1 needs `class_name"),
        ("tools:\n  - config: {type: native}\n", "needs `class_name"),
        ("tools:\n  - class_name: a.B\n", "needs `config"),
        ("tools:\n  - {class_name: a.B, config: native}\n", "needs `config"),
        ("tools:\n  - {class_name: a.B, config: {type: mcp}}\n", "needs `config"),
        (ENTRY + "    tool_schema: [search]\n", r"without function\.name"),
        (ENTRY + "    tool_schema: {type: function, function: search}\n", r"without function\.name"),
        (ENTRY + "    tool_schema: {type: function, function: {description: d}}\n", r"without function\.name"),
        (ENTRY + "    tool_schema: {type: function, function: {name: s}}\n", r"function\.description: Field required"),
        ("tools:\n  - {class_name: no.such.Tool, config: {type: native}}\n", "cannot be imported: ModuleNotFoundError"),
        (
            f"tools:\n  - {{class_name: {TOOL}s, config: {{type: native}}}}\n",
            r"has no class SearchTools\. Did you mean SearchTool\?",
        ),
        (
            f"tools:\n  - {{class_name: {TOOL}, config: {{type: native, top_k: 3}}}}\n",
            r"search\.top_k is not a setting.*Did you mean search\.topk",
        ),
        (
            "tools:\n  - {class_name: verl_atpo.tools.python.PythonTool, config: {type: native, cpu_s: -1}}\n",
            r"python\.cpu_s=-1 cannot work",
        ),
    ],
)
def test_bad_tool_files(tmp_path, content, message):
    file = tmp_path / "tools.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=f"tool_config_path=.*{message}") as refused:
        check_tool_files(tool_config(str(file)))
    assert len(str(refused.value)) < 1000


def test_good_tool_files(tmp_path):
    (tmp_path / "tools.yaml").write_text(ENTRY + SCHEMA)
    check_tool_files(tool_config(str(tmp_path / "tools.yaml")))
    check_tool_files(OmegaConf.create({}))
