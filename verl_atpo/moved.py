"""Modules that have moved: an import under the old name is refused with the new one."""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from types import ModuleType

MOVED = {
    "verl_atpo.advantage": "verl_atpo.method.estimator",
    "verl_atpo.agent_presets": "verl_atpo.search_qa.presets",
    "verl_atpo.checks": "verl_atpo.startup.checks",
    "verl_atpo.credit": "verl_atpo.method.credit",
    "verl_atpo.evaluation": "verl_atpo.search_qa.evaluation",
    "verl_atpo.expansion": "verl_atpo.method.expansion",
    "verl_atpo.policy_loss": "verl_atpo.method.loss",
    "verl_atpo.presets": "verl_atpo.startup.presets",
    "verl_atpo.retriever": "verl_atpo.search_qa.retriever",
    "verl_atpo.rewards": "verl_atpo.search_qa.rewards",
    "verl_atpo.tools.branching": "verl_atpo.tools.contract",
    "verl_atpo.tools.guard": "verl_atpo.replay.guard",
    "verl_atpo.tools.neutralise": "verl_atpo.tools.text",
    "verl_atpo.tools.search": "verl_atpo.search_qa.search_tool",
    "verl_atpo.tools.tag_agent": "verl_atpo.search_qa.tag_agent",
    "verl_atpo.tree": "verl_atpo.method.tree",
}
"""Old name -> new name, packages with all that was in them."""


class _Refuse(importlib.abc.MetaPathFinder):
    """Comes first: a left-over folder of compiled files would pass for a package under the old name."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Raise for a name that has moved.

        Raises:
            ModuleNotFoundError: says what the module is called now.
        """
        if name in MOVED:
            new = MOVED[name]
            raise ModuleNotFoundError(f"{name} has moved: it is {new} now; write that in the recipe.", name=name)


def refuse_old_names() -> None:
    """Refuse imports under old names from now on; may be called again."""
    if not any(isinstance(finder, _Refuse) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Refuse())
