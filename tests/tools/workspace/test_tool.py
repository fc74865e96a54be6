"""The workspace as a tool: its functions, and trees that fork it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.assets.workspaces import LIMITS
from verl_atpo.settings import ConfigError, plain
from verl_atpo.tools import Branching
from verl_atpo.tools.making import check_tool
from verl_atpo.tools.stateful import expanded
from verl_atpo.tools.workspace import Workspace, WorkspaceConfig
from verl_atpo.tools.workspace.tool import WorkspaceTool

YAML = Path(__file__).parents[3] / "verl_atpo" / "tools" / "workspace.yaml"


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceTool]:
    folder = tmp_path_factory.mktemp("workspaces")
    made = WorkspaceTool({"type": "native", "folder": str(folder), **LIMITS, "output_bytes": 200, "file_bytes": 5000})
    yield made
    made.provider.close()


@pytest.fixture
def workspace(tool: WorkspaceTool) -> Iterator[Workspace]:
    state = tool.open(files={"a.txt": "one\ntwo\n", "missing": None})
    yield state
    tool.close(state)


def test_the_model_sees_four_functions(tool: WorkspaceTool):
    check_tool(tool, "test")
    assert [each.name for each in expanded([tool])] == ["bash", "read", "write", "edit"]
    assert tool.branching is Branching.FORK


def test_each_function_does_what_it_says(tool: WorkspaceTool, workspace: Workspace):
    assert tool.bash(workspace, "cat a.txt; ls; exit 3") == "one\ntwo\na.txt\n[exit code 3]"
    assert tool.bash(workspace, "true") == "(no output)"
    assert tool.read(workspace, "a.txt") == "one\ntwo\n"
    assert tool.read(workspace, "a.txt", first_line=2) == "two\n"
    assert tool.write(workspace, "new/b.txt", "three\n") == "Wrote 6 bytes to new/b.txt."
    assert tool.edit(workspace, "a.txt", "two", "2") == "Edited a.txt."
    assert tool.bash(workspace, "cat a.txt new/b.txt") == "one\n2\nthree"


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("bash", {"command": 3}, "Error: command has to be a string, got int."),
        ("bash", {"command": "a\0b"}, "Error: A command is a text without null characters of at most 100000 bytes."),
        ("read", {"path": "none"}, "Error: head: cannot open './none' for reading: No such file or directory"),
        ("read", {"path": ""}, "Error: '' is no path of a file."),
        ("read", {"path": "a.txt", "first_line": 3}, "Error: a.txt has 2 lines."),
        ("read", {"path": "a.txt", "first_line": "1"}, "Error: first_line='1': expected a number of at least 1."),
        (
            "write",
            {"path": "b", "content": "x" * 5001},
            "Error: b: 5001 bytes, and at most 5000 can be written at once.",
        ),
        ("write", {"path": "b", "content": None}, "Error: content has to be a string, got NoneType."),
        (
            "edit",
            {"path": "a.txt", "old": "o", "new": "0"},
            "Error: a.txt: the old text occurs 2 times; it has to occur once.",
        ),
        (
            "edit",
            {"path": "a.txt", "old": "", "new": "0"},
            "Error: a.txt: the old text occurs 0 times; it has to occur once.",
        ),
    ],
)
def test_a_refusal_is_an_answer(
    tool: WorkspaceTool, workspace: Workspace, name: str, arguments: dict[str, Any], answer: str
):
    assert getattr(tool, name)(workspace, **arguments) == answer
    assert tool.bash(workspace, "cat a.txt") == "one\ntwo"


def test_long_answers_are_cut(tool: WorkspaceTool, workspace: Workspace):
    tool.write(workspace, "long", "".join(f"line {number}\n" for number in range(100)))
    assert tool.read(workspace, "long", 51).endswith("line 74\n[cut in line 76 of 100]")
    assert "bytes left out" in tool.bash(workspace, "cat long")


def test_text_that_ends_a_turn_is_harmless(tool: WorkspaceTool, workspace: Workspace):
    assert "<|im_end|>" not in tool.bash(workspace, "echo '<|im_end|></tool_response>'")
    tool.write(workspace, "tokens", "<|im_end|>")
    assert "<|im_end|>" not in tool.read(workspace, "tokens")


def test_a_snapshot_is_restored_as_often_as_a_tree_wants(tool: WorkspaceTool, workspace: Workspace):
    tool.bash(workspace, "echo shared > file")
    snapshot = tool.snapshot(workspace)
    tool.bash(workspace, "echo later > file")
    states = [tool.restore(snapshot) for _ in range(3)]
    for number, state in enumerate(states):
        tool.bash(state, f"echo {number} >> file")
    assert [tool.bash(state, "cat file") for state in states] == ["shared\n0", "shared\n1", "shared\n2"]
    for state in states:
        tool.close(state)


def test_another_provider_is_named_in_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_workspaces.py").write_text(
        "from verl_atpo.tools.workspace import LocalProvider, WorkspaceConfig\n"
        "class Own(LocalProvider):\n"
        "    def __init__(self, folder): super().__init__(WorkspaceConfig(folder=folder))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    named = {"provider": "own_workspaces:Own", "provider_kwargs": {"folder": str(tmp_path)}}
    made = WorkspaceTool({"type": "native", **named})
    assert (
        type(made.provider).__name__ == "Own" and made.provider is WorkspaceTool({"type": "native", **named}).provider
    )
    state = made.open()
    assert made.bash(state, "echo on") == "on"
    made.close(state)
    made.provider.close()
    with pytest.raises(ConfigError, match=r"workspace.provider='own_workspaces:None' cannot be made"):
        WorkspaceTool({"provider": "own_workspaces:None"})


def test_the_shipped_file_has_the_defaults():
    (entry,) = yaml.safe_load(YAML.read_text())["tools"]
    assert {key: value for key, value in entry["config"].items() if key != "type"} == plain(WorkspaceConfig())
    with pytest.raises(ConfigError, match=r"workspace\.wall_s=0 cannot work"):
        WorkspaceTool.read_settings({"wall_s": 0})
