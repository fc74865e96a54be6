"""Old import paths, which a recipe may still hold, are refused with the new name."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from verl_atpo.moved import MOVED


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_name_says_the_new_one(old, new):
    with pytest.raises(ModuleNotFoundError, match=rf"{old} has moved: it is {new} now"):
        importlib.import_module(old)
    importlib.import_module(new)


def test_what_stands_in_recipes_is_told_too():
    """A module below a package that moved, as in verl's ``pkg://verl_atpo.rewards.qa``, and ``python -m``."""
    with pytest.raises(ModuleNotFoundError, match=r"it is verl_atpo\.search_qa\.rewards now"):
        importlib.import_module("verl_atpo.rewards.qa")
    run = subprocess.run([sys.executable, "-m", "verl_atpo.retriever"], capture_output=True, text=True, check=False)
    assert run.returncode != 0 and "it is verl_atpo.search_qa.retriever now" in run.stderr


def test_recipes_go_on_finding_the_manager_and_the_tools():
    from verl_atpo.rollout import TreeAgentLoopManager
    from verl_atpo.tools import StatefulTool
    from verl_atpo.tools.python import PythonTool

    assert TreeAgentLoopManager and issubclass(PythonTool, StatefulTool)


def test_other_missing_modules_are_missed_as_ever():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'verl_atpo\.nothing'"):
        importlib.import_module("verl_atpo.nothing")
