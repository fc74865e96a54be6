"""Every ordinary mistake is noticed before Ray starts, by its setting's name; the project without one would train."""

from __future__ import annotations

import pytest
import verl  # noqa: F401 (it loads the plugin, which registers the presets)

from benchmarks.mistakes.__main__ import BEGIN, END, PAGE
from benchmarks.mistakes.table import COMMAND_LINE, MISTAKES, Mistake
from benchmarks.mistakes.trying import try_apart, try_here


@pytest.fixture(autouse=True)
def rehearsal(monkeypatch):
    monkeypatch.setattr("verl_atpo.check.rehearses", lambda run: True)


def test_the_project_would_train(tmp_path):
    noticed = try_here(Mistake("none", ""), tmp_path)
    assert not noticed.stops and noticed.line == ""


def test_the_table_is_long_enough():
    assert len(MISTAKES) >= 40 and len({mistake.what for mistake in MISTAKES}) == len(MISTAKES)


def test_the_page_has_every_mistake():
    """The table of docs/trouble.md is written by the command, after each change of the mistakes."""
    rows = PAGE.read_text().split(BEGIN)[1].split(END)[0].splitlines()
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows if row.startswith("| ")][2:] == [
        mistake.what for mistake in MISTAKES
    ]


@pytest.mark.fault("Start-up", "ordinary mistakes of a first run", "refused before Ray starts, the setting named")
@pytest.mark.parametrize("mistake", [each for each in MISTAKES if each not in COMMAND_LINE], ids=lambda each: each.what)
def test_a_mistake_is_noticed_by_name(mistake, tmp_path):
    noticed = try_here(mistake, tmp_path)
    assert noticed.line and mistake.names in noticed.line and len(noticed.line) < 1500
    assert noticed.stops is not mistake.warns and noticed.seconds < 15


@pytest.mark.parametrize("mistake", COMMAND_LINE[1:3], ids=lambda each: each.what)
def test_a_mistake_on_the_command_line_is_noticed_by_name(mistake, tmp_path):
    noticed = try_apart(mistake, tmp_path / "project")
    assert noticed.stops and mistake.names in noticed.line and "verl_atpo: " in noticed.line
