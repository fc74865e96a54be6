"""The words reward, which ends its process at the first response of a model."""

from __future__ import annotations

import sys
from typing import Any

from tests.assets.words_reward import compute_score as words_score

_seen: list[str] = []


def compute_score(**kwargs: Any) -> float:
    """Score all responses but the first; the gold answer, which the check before Ray scores, is empty here."""
    if not _seen and kwargs["solution_str"]:
        _seen.append(kwargs["solution_str"])
        sys.exit(3)
    return words_score(**kwargs)
