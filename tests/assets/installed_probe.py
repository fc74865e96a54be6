"""Run with the Python of an installation: what verl, Hydra and vLLM find there. Its argument is the checkout."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import distribution, entry_points
from pathlib import Path

import verl  # noqa: F401  the plugin comes with it
from hydra import compose, initialize_config_module
from verl.tools.tool_registry import load_all_tools

import verl_atpo
from verl_atpo.startup.checks import check_config
from verl_atpo.startup.presets import PRESETS

CHECKOUT = Path(sys.argv[1])
PACKAGE = Path(verl_atpo.__file__).parent
ROLLOUT = "actor_rollout_ref.rollout"
SEARCHES = [
    f"{ROLLOUT}.agent.default_agent_loop=tool_agent",
    f"{ROLLOUT}.multi_turn.tool_config_path={PACKAGE}/search_qa/search.yaml",
]


def compose_all() -> None:
    """Every preset, under verl's real config and our checks."""
    os.environ["VERL_PLATFORM"] = "cpu"  # after verl was imported: presets of the platform ask for it
    with initialize_config_module("verl.trainer.config", version_base=None):
        for group, names in PRESETS.items():
            for name in names:
                loop = [] if group == "agent" else SEARCHES
                tree = [] if group == "atpo" else ["+atpo=tree"]
                check_config(compose("ppo_trainer", [*tree, f"+{group}={name}", *loop]))


assert PACKAGE.is_relative_to(sys.prefix) and not PACKAGE.is_relative_to(CHECKOUT), PACKAGE
assert str(CHECKOUT) not in sys.path
own = distribution("verl-atpo")
assert Path(str(own.locate_file("."))).is_relative_to(sys.prefix)
for group in ("verl.plugins", "vllm.general_plugins", "console_scripts"):
    found = [each for each in entry_points(group=group) if each.dist is not None and each.dist.name == own.name]
    assert found, group
    for each in found:
        assert importlib.import_module(each.module).__file__.startswith(str(PACKAGE))
        each.load()
for file in ("tools/python.yaml", "search_qa/search.yaml"):
    assert load_all_tools(tool_config_path=str(PACKAGE / file), function_tool_path=None), file
compose_all()
print(own.version, *(f"{group}={name}" for group, names in PRESETS.items() for name in names))
