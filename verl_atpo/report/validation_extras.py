"""Validation of rewards whose extra values are numbers in some rows and something else in others.

verl averages each key of a reward's mapping over the validation rows and judges by the first value whether it is a
number. :func:`average_numbers_only` wraps that: a key that is no number somewhere is not averaged, with one warning.
"""

from __future__ import annotations

import logging
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from verl_atpo.seams.wrap import wrap_once
from verl_atpo.settings import show

logger = logging.getLogger(__name__)

_reported: set[str] = set()


def averaged(extras: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Return extras that verl can average: keys with numbers only, or with texts only.

    Args:
        extras: key -> a value per row, None where the row has none.

    Examples:
        >>> averaged({"acc": [1.0, None], "why": ["cut", None], "steps": [3, None]})
        {'acc': [1.0, None], 'why': ['cut', None], 'steps': [3, None]}
    """
    found = {}
    for key, values in extras.items():
        others = [value for value in values if value is not None and not _is_number(value)]
        mixed = others and any(value is not None and _is_number(value) for value in values)
        if mixed and key not in _reported:
            _reported.add(key)
            logger.warning(
                "The reward function returned %r as a number for some rows and as %s for another, so it is not "
                "averaged in validation. Return a number for every row, or None.",
                key,
                show(others[0]),
            )
        found[key] = [None if value is None else str(value) for value in values] if others else list(values)
    return found


def average_numbers_only() -> Callable[[], None]:
    """Let verl's validation average only keys that are numbers in every row; may be called again.

    Returns:
        Function that undoes it.
    """
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    return wrap_once(PPOTrainer, "_val_metrics_update", _with_numbers)


def _with_numbers(original: Any) -> Any:
    def update(
        self: Any, data_sources: Any, sample_uids: Any, reward_extra_infos_dict: Any, *args: Any, **kwargs: Any
    ) -> Any:
        return original(self, data_sources, sample_uids, averaged(reward_extra_infos_dict), *args, **kwargs)

    return update


def _is_number(value: Any) -> bool:
    if not isinstance(value, numbers.Real):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True
