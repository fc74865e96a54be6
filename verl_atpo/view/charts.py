"""Learning curves and tree metrics by step, as options for ECharts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Series = Mapping[str, Sequence[tuple[int, float]]]

GROUPS: dict[str, tuple[str, ...]] = {
    "reward and accuracy": ("critic/score/mean", "val-core/"),
    "shape of trees": ("atpo/depth/mean", "atpo/nodes_per_tree", "atpo/leaves_per_tree"),
    "what there is to learn": ("atpo/equal_rewards_share", "atpo/saved_tokens_share"),
    "trouble": ("atpo/tool_errors", "atpo/tool_outages", "atpo/branches_regrown", "atpo/replays_diverged",
                "atpo/trees_failed"),
}  # fmt: skip
PALETTE = ["#0f766e", "#d9480f", "#2563eb", "#a16207", "#7c3aed", "#64748b"]


def members(series: Series, wanted: Sequence[str]) -> list[str]:
    """Metrics of a group that the run has; a name that ends in / stands for all below it."""
    return [
        name
        for prefix in wanted
        for name in sorted(series)
        if name == prefix or (prefix.endswith("/") and name.startswith(prefix))
    ]


def short(name: str) -> str:
    """A metric's name without what every name has."""
    for prefix in ("atpo/", "val-core/"):
        name = name.removeprefix(prefix)
    return name


def options(title: str, series: Series, names: Sequence[str]) -> dict[str, Any]:
    """A line chart of some metrics by step."""
    return {
        "title": {"text": title, "left": 0, "textStyle": {"fontSize": 13, "fontWeight": 600, "color": "#334155"}},
        "color": PALETTE,
        "animation": False,
        "grid": {"left": 44, "right": 14, "top": 62, "bottom": 26},
        "legend": {"top": 26, "left": 0, "type": "scroll", "itemWidth": 14, "textStyle": {"fontSize": 11}},
        "tooltip": {"trigger": "axis", "confine": True, "order": "valueDesc"},
        "xAxis": {"type": "value", "minInterval": 1, "min": "dataMin", "max": "dataMax", "splitLine": {"show": False}},
        "yAxis": {"type": "value", "scale": True, "axisLabel": {"fontSize": 11}},
        "series": [
            {
                "name": short(name),
                "type": "line",
                "symbolSize": 6,
                "showSymbol": len(series.get(name, ())) < 40,
                "data": [list(point) for point in series.get(name, ())],
            }
            for name in names
        ],
    }
