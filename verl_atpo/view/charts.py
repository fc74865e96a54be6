"""Charts as options for ECharts: learning curves and tree metrics by step, bars of selections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Series = Mapping[str, Sequence[tuple[int, float]]]

GROUPS: dict[str, tuple[str, ...]] = {
    "reward and accuracy": ("critic/score/mean", "val-core/"),
    "turns of a trajectory": ("atpo/depth/mean", "atpo/depth/max"),
    "size of trees": ("atpo/nodes_per_tree", "atpo/leaves_per_tree"),
    "shares": ("atpo/equal_rewards_share", "atpo/saved_tokens_share"),
    "trouble": ("atpo/tool_errors", "atpo/tool_outages", "atpo/branches_regrown", "atpo/replays_diverged",
                "atpo/trees_failed"),
}  # fmt: skip
ONLY_IF_ANY = ("trouble",)
"""Groups that show a metric only if it was ever above 0."""
MOST_SERIES = 8
PALETTE = ["#0f766e", "#d9480f", "#2563eb", "#a16207", "#7c3aed", "#64748b"]
GREY = "#8493a8"
"""Colour of axes and labels, to be read on white and on dark pages."""
FAINT = "#8493a833"


def members(series: Series, group: str) -> list[str]:
    """List the metrics of a group that the run has; a name that ends in / stands for all below it."""
    names = [
        name
        for prefix in GROUPS[group]
        for name in sorted(series)
        if name == prefix or (prefix.endswith("/") and name.startswith(prefix))
    ]
    if group in ONLY_IF_ANY:
        names = [name for name in names if any(value for _, value in series[name])]
    return names[:MOST_SERIES]


def short(name: str) -> str:
    """Shorten a metric's name by what every name has."""
    for prefix in ("atpo/", "val-core/"):
        name = name.removeprefix(prefix)
    return name[:80]


def options(title: str, series: Series, names: Sequence[str]) -> dict[str, Any]:
    """Describe a line chart of some metrics by step."""
    lines = [
        {
            "name": short(name), "type": "line", "symbolSize": 6, "showSymbol": len(series.get(name, ())) < 40,
            "data": [list(point) for point in series.get(name, ())],
        }
        for name in names
    ]  # fmt: skip
    axis = {"type": "value", "minInterval": 1, "min": "dataMin", "max": "dataMax"}
    x_axis = {**axis, **_labels(), "splitLine": {"show": False}}
    return {**_frame(title, bool(lines)), "xAxis": x_axis, "series": lines}


def bar_options(title: str, bars: Sequence[tuple[str, float, str]]) -> dict[str, Any]:
    """Describe a bar chart of percentages.

    Args:
        title: title of the chart.
        bars: label, height in per cent, and the two counts that it is the share of.
    """
    heights = [round(height, 2) for _, height, _ in bars]
    labels = {"fontSize": 10, "lineHeight": 13, "interval": 0, "hideOverlap": True, "color": GREY}
    axis = {"type": "category", "data": [f"{label[:24]}\n{counts}" for label, _, counts in bars], "axisLabel": labels}
    grid = {"left": 44, "right": 14, "top": 34, "bottom": 40}
    series = [{"type": "bar", "data": heights, "barMaxWidth": 60}]
    y_axis = {"type": "value", **_labels()}
    return {**_frame(title, bool(bars)), "grid": grid, "xAxis": axis, "yAxis": y_axis, "series": series}


def _frame(title: str, anything: bool) -> dict[str, Any]:
    shown = title if anything or not title else f"{title}: none so far"
    return {
        "title": {"text": shown, "left": 0, "textStyle": {"fontSize": 13, "fontWeight": 600, "color": GREY}},
        "color": PALETTE,
        "animation": False,
        "grid": {"left": 44, "right": 14, "top": 62, "bottom": 26},
        "legend": {"top": 26, "left": 0, "type": "scroll", "itemWidth": 14,
                   "textStyle": {"fontSize": 11, "color": GREY}},
        # as text: names of metrics may come from somebody else's file
        "tooltip": {"trigger": "axis", "confine": True, "order": "valueDesc", "renderMode": "richText"},
        "yAxis": {"type": "value", "scale": True, **_labels()},
    }  # fmt: skip


def _labels() -> dict[str, Any]:
    return {"axisLabel": {"fontSize": 11, "color": GREY}, "splitLine": {"lineStyle": {"color": FAINT}}}
