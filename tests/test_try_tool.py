"""The rehearsal of a tool: what trees would meet in training is met in the terminal."""

from __future__ import annotations

import copy
import io
import json
import sys
import textwrap

import pandas as pd
import pytest
from verl.tools.function_tool import FUNCTION_TOOL_REGISTRY, function_tool

from verl_atpo import try_tool
from verl_atpo.tools import Branching, StatefulTool, action, end_episode
from verl_atpo.tools.stateful import expanded

CALLS = ["--call", "by=2", "--call", '{"by": 3}', "--call", "by=4"]


class Counter(StatefulTool):
    """Made again, the same calls give the same answers."""

    def open(self, start: int = 0) -> list[int]:
        return [start]

    def call(self, state: list[int], by: int) -> tuple[str, float]:
        """Counts.

        Args:
            by: How far.
        """
        state[0] += by
        return f"at {state[0]}", float(state[0] > 8)


class Copied(Counter):
    def snapshot(self, state):
        return list(state)

    def restore(self, snapshot):
        return list(snapshot)


class Shared(Counter):
    """Its snapshot goes on changing."""

    def snapshot(self, state):
        return state

    def restore(self, snapshot):
        return list(snapshot)


class Lent(Counter):
    """Its snapshot is changed by the first who gets it."""

    def snapshot(self, state):
        return list(state)

    def restore(self, snapshot):
        return snapshot


class Drifting(Counter):
    """Every game goes on where the last one ended."""

    last = 0

    def close(self, state):
        type(self).last = state[0]

    def open(self, start: int = 0):
        return [self.last]


class Leaking(Counter):
    def close(self, state):
        raise OSError("cannot be closed")


class Broken(Counter):
    def call(self, state, by: int) -> str:
        """Counts.

        Args:
            by: How far.
        """
        raise KeyError("board")


class Long(Counter):
    def call(self, state, by: int) -> str:
        """Counts.

        Args:
            by: How far.
        """
        return "x" * 300


@pytest.fixture
def functions():
    before = copy.copy(FUNCTION_TOOL_REGISTRY)
    yield
    FUNCTION_TOOL_REGISTRY.clear()
    FUNCTION_TOOL_REGISTRY.update(before)


def tried(capsys, kind: str, *arguments: str) -> tuple[int, str]:
    code = try_tool.main([f"{__name__}.{kind}", *(arguments or CALLS)])
    return code, capsys.readouterr().out


@pytest.mark.parametrize("kind, how", [("Counter", "replay"), ("Copied", "fork")])
def test_a_tool_that_branches_well_is_told_so(capsys, kind, how):
    code, said = tried(capsys, kind, "--kwargs", '{"start": 1}', *CALLS)
    assert code == 0 and f"branches by {how}: 3 calls" in said
    assert '> {"by": 2}\nat 3   [' in said and "at 10   [" in said and "ms, reward 1]" in said
    schema = json.loads(said.partition("What the model reads:\n")[2].partition("\n\n")[0])
    assert list(schema["parameters"]["properties"]) == ["by"]


@pytest.mark.parametrize(
    "kind, where, remedy",
    [
        ("Shared", "Expanded after 1 calls, call 2, {'by': 3}, gave 'at 12'", "`snapshot` has to return a copy"),
        ("Lent", "Expanded a second time after 1 calls, call 2", "`restore` a new state"),
        ("Drifting", "Expanded after 0 calls, call 1", "seed what is random in `open`"),
        ("Leaking", "states were opened and 0 closed", "`close` failed"),
        ("Broken", "Every call raised", "Every call raised"),
    ],
)
def test_one_that_does_not_is_told_where_and_what_to_do(capsys, kind, where, remedy):
    code, said = tried(capsys, kind)
    assert code == 1 and "WRONG" in said and where in said and remedy in said


def test_the_branching_that_a_tool_declares_counts(monkeypatch, capsys):
    monkeypatch.setattr(Copied, "branching", Branching.REPLAY)
    assert "branches by replay" in tried(capsys, "Copied")[1]


def test_a_state_that_cannot_be_opened_names_the_remedy(capsys):
    code, said = tried(capsys, "Counter", "--kwargs", '{"secret": 1}', *CALLS)
    assert code == 1 and "Counter.open with create_kwargs=['secret']" in said and "tools_kwargs" in said


def test_verls_own_limit_is_spoken_of(capsys):
    assert "cuts answers to 256 characters, the longest here has 300" in tried(capsys, "Long")[1]


def test_calls_are_read_from_the_terminal_until_an_empty_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("by=2\nby\n\nby=3\n"))
    code = try_tool.main([f"{__name__}.Counter"])
    said = capsys.readouterr().out
    assert code == 0 and "'by' cannot be read: expected name=value" in said and "1 calls" in said


def test_functions_are_tried_too(functions, monkeypatch, capsys):
    seen = []

    @function_tool("twice")
    def twice(number: int) -> str:
        """Doubles.

        Args:
            number: Any.
        """
        return str(2 * number)

    @function_tool("nth")
    def nth(number: int) -> str:
        """Counts its calls.

        Args:
            number: Any.
        """
        seen.append(number)
        return str(len(seen))

    for name, code in (("twice", 0), ("nth", 1)):
        monkeypatch.setattr(sys.modules[__name__], name, locals()[name], raising=False)
        given, said = tried(capsys, name, "--call", "number=2", "--call", "number=3")
        assert given == code
    assert "With the calls in another order, call 1" in said and "StatefulTool" in said


@pytest.mark.parametrize(
    "name, words",
    [
        ("no_such_module.Tool", "its module cannot be imported"),
        (f"{__name__}.Count", "has no tool Count: expected a subclass of"),
        (f"{__name__}.Count", "Did you mean Counter?"),
        (f"{__name__}.tried", "has no tool tried"),
    ],
)
def test_what_is_no_tool_is_refused(capsys, name, words):
    with pytest.raises(SystemExit):
        try_tool.main([name, "--call", "by=1"])
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_tool_that_cannot_be_described_says_why(tmp_path, monkeypatch, capsys):
    (tmp_path / "undescribed.py").write_text(
        textwrap.dedent(
            """
            from verl_atpo.tools import StatefulTool

            class Tool(StatefulTool):
                def call(self, state, **anything):
                    return ""
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit):
        try_tool.main(["undescribed.Tool", "--call", "by=1"])
    assert "cannot be described to a model" in " ".join(capsys.readouterr().err.split())


class Rooms(StatefulTool):
    """Two actions on one state, the second of which may end the game."""

    def open(self, word: str = "elk", rooms: dict | None = None) -> dict:
        return {"at": "/", "word": word, "rooms": rooms or {}}

    @action
    def sh(self, state, command: str, times: int = 1) -> str:
        """Runs a command.

        Args:
            command: As in a shell.
            times: How often.
        """
        state["at"] = command.removeprefix("cd ")
        return f"in {state['at']} {times}"

    @action
    def say(self, state, word: str) -> object:
        """Says the word.

        Args:
            word: The word.
        """
        return end_episode("won", 1.0) if word == state["word"] else f"no, in {state['at']}"


class Forked(Rooms):
    def snapshot(self, state):
        return dict(state)

    def restore(self, snapshot):
        return dict(snapshot)


@pytest.mark.parametrize("kind, how", [("Rooms", "replay"), ("Forked", "fork")])
def test_actions_are_called_by_name_and_a_tool_may_end_the_game(capsys, kind, how):
    calls = ["sh command=cd red times=2", "say word=cat", 'say {"word": "elk"}', "say word=late"]
    code, said = tried(capsys, kind, *[part for call in calls for part in ("--call", call)])
    assert code == 0 and f"branches by {how}: 3 calls" in said, said
    assert '> sh {"command": "cd red", "times": 2}\nin red 2' in said and "no, in red" in said
    assert "won   [" in said and "reward 1]" in said and "The tool ended the episode." in said


@pytest.mark.parametrize(
    "line, asked",
    [
        ("sh command=cd red", ("sh", {"command": "cd red"})),
        ("sh command=echo a=b  c times=3", ("sh", {"command": "echo a=b  c", "times": 3})),
        ("sh command='7'", ("sh", {"command": "7"})),
        ('sh command="a b"', ("sh", {"command": "a b"})),
        ("sh other=1", ("sh", {"other": 1})),
        ("sh", ("sh", {})),
        ('sh {"command": "x"}', ("sh", {"command": "x"})),
    ],
)
def test_a_line_is_read_as_it_is_meant(line, asked):
    offered = {tool.name: tool for tool in expanded([Rooms({})])}
    assert try_tool.read_call(line, offered) == asked
    for wrong in ("fly x=1", "sh cd red", "sh {x"):
        with pytest.raises(ValueError, match="cannot be read"):
            try_tool.read_call(wrong, offered)


def test_a_row_of_the_data_is_read_as_in_training(tmp_path, capsys):
    rows = [
        {"tools_kwargs": {"rooms": {"create_kwargs": {"word": "cat", "rooms": {"a": 1}}}}},
        {"tools_kwargs": {"rooms": {"create_kwargs": {"rooms": {"b": 2}}}, "other": {"x": 1}}},
        {"tools_kwargs": {"other": {"x": 1}}},
    ]
    file = tmp_path / "data.parquet"
    pd.DataFrame({"extra_info": rows}).to_parquet(file)
    assert try_tool.kwargs_of_row(f"{file}:1", Rooms({})) == {"rooms": {"b": 2}}  # parquet has word and a as null
    code, said = tried(capsys, "Rooms", "--row", f"{file}:0", "--call", "say word=cat")
    assert code == 0 and "won" in said
    for wrong, words in [
        ("data.parquet", "expected a parquet file and a row"),
        (f"{file}:9", "rows 0 to 2"),
        (f"{file}:2", "has no tools_kwargs.rooms"),
    ]:
        with pytest.raises(SystemExit):
            try_tool.main([f"{__name__}.Rooms", "--row", wrong, "--call", "say word=cat"])
        assert words in " ".join(capsys.readouterr().err.split())
