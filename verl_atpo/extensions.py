"""Extensions from outside of the package: modules that register schemes, strategies, rules and metrics. Pure Python.

A module is named by ``algorithm.atpo.extensions``, or by the entry-point group ``verl_atpo.extensions`` of an installed
package. It is imported in every process that reads the settings, before they are read.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from collections.abc import Sequence
from typing import TypeVar

from verl_atpo.settings import refuse

SETTING = "algorithm.atpo.extensions"
GROUPS = ("verl_atpo.extensions", "verl_atpo.schemes")

_Item = TypeVar("_Item")


def register(registry: dict[str, _Item], kind: str, name: str, item: _Item) -> _Item:
    """Put an item under its name; the same item again changes nothing.

    Raises:
        ValueError: the name is taken by another item.
    """
    if registry.setdefault(name, item) is not item:
        raise ValueError(f"{kind} {name!r} is registered already, to {registry[name]!r}: choose another name.")
    return item


@functools.cache
def import_installed() -> None:
    """Import the modules of the entry-point groups, once."""
    for group in GROUPS:
        for entry_point in importlib.metadata.entry_points(group=group):
            entry_point.load()


def import_extensions(names: object) -> None:
    """Import the modules that the settings name.

    Raises:
        ConfigError: a name of no module, or a module that cannot be imported.
    """
    if names is None or isinstance(names, str) or not isinstance(names, Sequence):
        return  # the type is checked with the other settings
    for name in names:
        try:
            importlib.import_module(str(name))
        except Exception as error:
            why = f"{type(error).__name__}: {error}. Correct the name, or add its folder to PYTHONPATH"
            raise refuse(SETTING, name, why) from error
