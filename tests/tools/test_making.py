"""Tools as a rollout worker makes them, made in the driver: what cannot work is refused with what to write instead."""

from __future__ import annotations

import copy
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from verl.tools import function_tool as verls

from verl_atpo.settings import ConfigError
from verl_atpo.tools.making import make_tools, removed_tool

ROOT = Path(__file__).parents[2]

MODULE = '''
from verl.tools.base_tool import BaseTool
from verl.tools.function_tool import function_tool
from verl_atpo.tools import StatefulTool, action


class Good(StatefulTool):
    name = "good"
    def open(self, size: int = 1): return [size]
    def call(self, state, by: int) -> str:
        """Adds.

        Args:
            by: How much.
        """
        return "x"


class Two(StatefulTool):
    def open(self): return []
    @action
    def first(self, state) -> str:
        """Looks."""
        return ""
    @action
    def good(self, state) -> str:
        """Looks."""
        return ""


class NoOpen(StatefulTool):
    def call(self, state) -> str:
        """Looks."""
        return ""


class NoCall(StatefulTool):
    def open(self): return []
    def get_openai_tool_schema(self): return Good({}).tool_schema


class HalfAFork(Good):
    def snapshot(self, state): return state


class Raises(Good):
    def __init__(self, config, tool_schema=None):
        raise KeyError("WORLD_DIR")


class NoSchema(BaseTool):
    async def execute(self, instance_id, parameters, **kwargs): return None


class Idle(BaseTool):
    def get_openai_tool_schema(self): return Good({}).tool_schema


class Plain(Idle):
    def execute(self, instance_id, parameters, **kwargs): return "x", 0.0, {}


class Duck:
    def __init__(self, config, tool_schema): self.name, self.tool_schema = "duck", tool_schema
'''
SCHEMA = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "d",
        "parameters": {
            "type": "object",
            "properties": {"query_list": {"type": "array", "description": "q"}},
            "required": ["query_list"],
        },
    },
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before, loaded = copy.copy(verls.FUNCTION_TOOL_REGISTRY), copy.copy(verls._LOADED_FUNCTION_TOOL_PATHS)
    (tmp_path / "newcomers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("newcomers", None)
    for registry, old in [(verls.FUNCTION_TOOL_REGISTRY, before), (verls._LOADED_FUNCTION_TOOL_PATHS, loaded)]:
        registry.clear()
        registry.update(old)


def written(folder: Path, *entries: dict) -> str:
    file = folder / "tools.yaml"
    file.write_text(yaml.safe_dump({"tools": [{"config": {"type": "native"}, **entry} for entry in entries]}))
    return str(file)


def test_good_ones_are_made_and_actions_stand_for_their_tool(folder: Path) -> None:
    (folder / "functions.py").write_text(
        textwrap.dedent(
            '''
            from verl.tools.function_tool import function_tool

            @function_tool("twice")
            def twice(number: int) -> str:
                """Doubles.

                Args:
                    number: Any.
                """
                return str(2 * number)
            '''
        )
    )
    for _ in range(2):  # as often as one likes
        tools = make_tools(written(folder, {"class_name": "newcomers.Two"}), str(folder / "functions.py"))
        assert [tool.name for tool in tools] == ["first", "good", "twice"]
    assert make_tools(None, None) == []


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"class_name": "verl.tools.base_tool.BaseTool", "tool_schema": SCHEMA}], "base class; write a subclass"),
        ([{"class_name": "verl_atpo.tools.StatefulTool", "tool_schema": SCHEMA}], "base class; write a subclass"),
        ([{"class_name": "newcomers.NoOpen"}], "has no open; write `def open"),
        ([{"class_name": "newcomers.NoCall"}], "has no call; write `def call"),
        ([{"class_name": "newcomers.HalfAFork"}], "one of snapshot and restore"),
        ([{"class_name": "newcomers.Raises"}], "cannot be made: KeyError: 'WORLD_DIR'"),
        ([{"class_name": "newcomers.NoSchema"}], "add tool_schema"),
        ([{"class_name": "newcomers.Idle"}], "has no execute; write `async def execute"),
        ([{"class_name": "newcomers.Plain"}], "execute is awaited by verl; write `async def execute`"),
        ([{"class_name": "newcomers.Duck", "tool_schema": SCHEMA}], "has no method create"),
        ([{"class_name": "newcomers.Good"}, {"class_name": "newcomers.Two"}], "have one name: good"),
        ([{"class_name": "newcomers.Good"}] * 2, "have one name: good"),
        ([{"class_name": "newcomers.Good", "tool_schema": SCHEMA}], "['query_list'], the code takes ['by']"),
        ([{"class_name": "newcomers.Two", "tool_schema": SCHEMA}], "delete tool_schema"),
        (
            [{"class_name": "verl_atpo.search_qa.search_tool.SearchTool", "tool_schema": SCHEMA}],
            "expected one required string `query`",
        ),
    ],
)
def test_what_no_model_could_call_is_refused(folder: Path, entries: list[dict], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_tools(written(folder, *entries), None)
    assert words in str(refused.value) and "tools.yaml" in str(refused.value)


def test_functions_that_do_not_fit_their_schema_are_refused(folder: Path) -> None:
    (folder / "functions.py").write_text(
        "from verl.tools.function_tool import function_tool\n"
        f"@function_tool('search', schema={SCHEMA!r})\ndef search(query: str) -> str:\n    return query\n"
    )
    with pytest.raises(ConfigError, match=r"\['query_list'\], the code takes \['query'\]"):
        make_tools(None, str(folder / "functions.py"))


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("verl.tools.search_tool.SearchTool", "verl_atpo.search_qa.search_tool.SearchTool"),
        ("verl.tools.sandbox_fusion_tools.SandboxFusionTool", "verl_atpo.tools.python.PythonTool"),
        ("verl.tools.gsm8k_tool.Gsm8kTool", "StatefulTool"),
        ("verl.tools.utils.mcp_clients.McpClientManager", "@function_tool"),
        ("verl.tools.base_tool.BaseTool", None),
        ("newcomers.Good", None),
    ],
)
def test_tools_that_verl_no_longer_has(name: str, instead: str | None) -> None:
    said = removed_tool(name)
    assert said is None if instead is None else instead in said and name in said


def test_the_shipped_files_are_good() -> None:
    files = sorted({*ROOT.glob("verl_atpo/**/search.yaml"), *ROOT.glob("examples/*/tool.yaml")})
    assert len(files) >= 2
    for file in files:
        assert make_tools(str(file), None)
