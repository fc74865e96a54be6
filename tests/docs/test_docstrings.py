"""Examples in docstrings give the values that they show."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in (ROOT / "verl_atpo").rglob("*.py")
    if "\n        >>> " in file.read_text()
)


def test_there_are_examples():
    assert len(MODULES) >= 8


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name: str):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0 and found.failed == 0
