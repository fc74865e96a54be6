"""Counts of the turns that were selected for re-sampling, among those that could have been."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from verl_atpo.report.record import Record

NLL_STEP = 0.25
"""Width of a bar of the histogram over mean NLL, nats/token."""
LAST_NLL = 12
"""Number of the last bar, for everything above."""
GROUPINGS = {"turn": "by turn", "nll": "by mean NLL, nats/token", "tool": "by what the turn called"}
NO_TOOL = "no tool"
MOST_TOOLS = 8

Counts = dict[str, dict[str, list[int]]]
"""Grouping -> group -> how many turns could have been selected, and how often one was."""


def selections_of(record: Record) -> Counts:
    """Count the candidates and selections of one tree.

    Every turn that does not end its trajectory is a candidate, and the prompt is one, as turn 0: selecting it starts a
    fresh chain. Turns that were not there yet when a selection was made are counted as well.
    """
    selected = Counter(record.get("selected") or [])
    found: Counts = {name: {} for name in GROUPINGS}
    if not selected:
        return found
    _add(found["turn"], "0", selected[0])
    for node in record["nodes"]:
        if not node["is_leaf"]:
            times = selected[node["index"]]
            _add(found["turn"], str(node["turn"]), times)
            if node["mean_nll"] is not None:
                _add(found["nll"], str(min(LAST_NLL, int(max(0.0, node["mean_nll"]) / NLL_STEP))), times)
            names = sorted({call["name"] for call in node.get("tool_calls", [])})
            _add(found["tool"], " + ".join(names)[:60] or NO_TOOL, times)
    return found


def _add(groups: dict[str, list[int]], name: str, selected: int) -> None:
    counts = groups.setdefault(name, [0, 0])
    counts[0] += 1
    counts[1] += selected


def total(found: Iterable[Counts]) -> Counts:
    """Add up the counts of several trees; of tools the most frequent are kept."""
    totals: Counts = {name: {} for name in GROUPINGS}
    for counts in found:
        for name, groups in counts.items():
            for group, (candidates, selected) in groups.items():
                both = totals[name].setdefault(group, [0, 0])
                both[0] += candidates
                both[1] += selected
    frequent = sorted(totals["tool"].items(), key=lambda item: -item[1][0])[:MOST_TOOLS]
    return {**totals, "tool": dict(frequent)}


def bars(groups: Mapping[str, list[int]], grouping: str) -> list[tuple[str, float, str]]:
    """Make a bar of each group: its label, selections per 100 candidates, and both counts."""
    numeric = grouping != "tool"
    ordered = sorted(groups.items(), key=lambda item: (int(item[0]),) if numeric else (-item[1][0],))
    return [
        (_label(group, grouping), 100.0 * selected / candidates, f"{selected}/{candidates}")
        for group, (candidates, selected) in ordered
    ]


def _label(group: str, grouping: str) -> str:
    if grouping == "turn":
        return "prompt" if group == "0" else group
    if grouping == "nll":
        low = int(group) * NLL_STEP
        return f"{low:g}+" if int(group) == LAST_NLL else f"{low:g}"
    return group
