"""Hint for entropy-guided selection that takes the turns of the first chains to end, as it does with slow tools."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from verl_atpo.config import ExpansionConfig, Schedule
from verl_atpo.report.metrics import PREFIX

logger = logging.getLogger(__name__)

STEPS = 3
"""Steps in a row before the hint."""
EARLY, TOP = 0.8, 0.6
"""Least share of selected turns of early chains, and highest share of the most uncertain ones, of such a step."""


class SelectionHint:
    """Logs the hint once, after three steps in a row.

    Args:
        expansion: settings of the selection; only ``strategy=entropy`` with continuous growth gets a hint.
    """

    def __init__(self, expansion: ExpansionConfig) -> None:
        continuous = expansion.schedule is Schedule.CONTINUOUS and expansion.start_after < 1
        self._applies = continuous and expansion.strategy == "entropy"
        self._start_after = expansion.start_after
        self._steps = 0

    def look(self, metrics: Mapping[str, float]) -> None:
        """Look at the metrics of a step."""
        early, top = (metrics.get(f"{PREFIX}/branched_{name}_share") for name in ("early", "top"))
        if not self._applies or early is None or top is None:
            return
        self._steps = self._steps + 1 if early >= EARLY and top <= TOP else 0
        if self._steps == STEPS:
            logger.warning(
                "Selection: %.0f %% of the re-sampled turns are of the half of the chains that ended first, %.0f %% "
                "are among the most uncertain ones of all chains. With slow tools, "
                "algorithm.atpo.expansion.start_after=%g decides before most turns are known: set it to 1, or "
                "strategy=noise, which does not rank turns by their uncertainty.",
                100 * early,
                100 * top,
                self._start_after,
            )
            self._applies = False
