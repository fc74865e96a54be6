"""The map of the code: every change has one room, and every file that the map names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def test_every_change_names_one_room():
    _, _, rest = PAGE.partition("## Where to change what")
    rows = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("| a new")]
    assert len(rows) >= 12
    for row in rows:
        room = row.split("|")[2].strip()
        assert re.fullmatch(r"`verl_atpo/[\w/.]+`", room), row
        assert (ROOT / room.strip("`")).exists(), row


def test_every_file_of_the_map_is_there():
    named = set(re.findall(r"`((?:verl_atpo|tests|docs|examples|recipes)/[\w/.]*)`", PAGE))
    assert len(named) > 30
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    links = set(re.findall(r"\]\((docs/[\w.]+)", PAGE))
    assert links and [link for link in sorted(links) if not (ROOT / link).exists()] == []


def test_every_room_is_on_the_map():
    rooms = {folder.parent.name for folder in (ROOT / "verl_atpo").glob("*/__init__.py")}
    assert len(rooms) > 15
    assert [room for room in sorted(rooms) if f"| `verl_atpo/{room}/`" not in PAGE.partition("## The path")[0]] == []
