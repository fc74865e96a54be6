"""The table of docs/budgets.md that says when an adaptive budget pays, worked out again."""

from __future__ import annotations

import math
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "budgets.md"
LEAVES, COST = 16, 0.6


def moment(a: float, b: float, power: int, of_failure: bool = False) -> float:
    """E[p^power], or E[(1 - p)^power], of Beta(a, b)."""
    if of_failure:
        a, b = b, a
    return math.exp(math.lgamma(a + power) - math.lgamma(a) + math.lgamma(a + b) - math.lgamma(a + b + power))


def test_moments_by_hand():
    assert moment(1, 1, 2) == moment(1, 1, 2, of_failure=True)
    assert round(moment(1, 1, 2), 9) == round(1 / 3, 9) and round(moment(4, 1, 1), 9) == 0.8


def test_the_table_is_the_formulas():
    rows = re.findall(
        r"\| Beta\(([\d.]+), ([\d.]+)\).*?\| (\d) \| (\d+)% \| (\d+)% \| (\d+)% \| ([\d.]+) \|", PAGE.read_text()
    )
    assert len(rows) == 6
    for a, b, chains, *shown in rows:
        a, b, chains = float(a), float(b), int(chains)
        branches = LEAVES - chains
        stop = moment(a, b, chains)
        saved = stop * branches * COST / (chains + branches * COST)
        missed = stop - moment(a, b, LEAVES)
        teaching = 1 - moment(a, b, LEAVES) - moment(a, b, LEAVES, of_failure=True)
        price = (1 - saved) * teaching / (teaching - missed)
        assert shown == [f"{100 * stop:.0f}", f"{100 * saved:.0f}", f"{100 * missed:.0f}", f"{price:.2f}"]
