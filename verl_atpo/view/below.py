"""Below a tree: its time line, the rows that the trainer got, its branches, and the rest of what the dump holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nicegui import ui

from verl_atpo.view.blocks import row_block, text_block
from verl_atpo.view.colors import ColorBy, scale_of
from verl_atpo.view.frame import block
from verl_atpo.view.row import branch_of, leaves_of, segments
from verl_atpo.view.text import visible
from verl_atpo.view.timeline import draw_timeline

SEGMENT_COLUMNS = ("start", "tokens", "what", "mask", "advantage", "value")
BRANCH_COLUMNS = ("number", "leaf", "round", "reward", "own_turns", "response_tokens", "started_s", "ended_s",
                  "diverged", "picked", "failures", "reward_extra")  # fmt: skip


def below(record: Mapping[str, Any]) -> None:
    """Tabs with everything that is not the picture."""
    with ui.element("div").classes("panel"):
        with ui.tabs().props("dense no-caps align=left") as tabs:
            for name in ("time line", "rows", "branches", "record"):
                ui.tab(name).props(f"data-part=tab-{name.split()[0]}")
        with ui.tab_panels(tabs, value="time line").classes("w-full"):
            with ui.tab_panel("time line"):
                drawn = draw_timeline(record)
                if drawn is None:
                    ui.label("The dump does not say when branches ran.").classes("faint")
                else:
                    block(drawn, "picture").props("data-part=timeline")
            with ui.tab_panel("rows"):
                _rows(record)
            with ui.tab_panel("branches"):
                _branches(record)
            with ui.tab_panel("record"):
                _rest(record)


def _rows(record: Mapping[str, Any]) -> None:
    leaves = leaves_of(record)
    if not leaves:
        ui.label("No trajectory ended.").classes("faint")
        return
    ui.label(
        "What the trainer got for one trajectory: trained tokens are coloured by their advantage, masked ones are grey."
    ).classes("faint")
    names = {leaf: f"row {number}: leaf at node {leaf}" for number, leaf in enumerate(leaves)}
    area = ui.element("div")

    def show(leaf: int) -> None:
        area.clear()
        with area:
            _row(record, leaf)

    chooser = (
        ui.select(names, value=leaves[0], on_change=lambda e: show(e.value))
        .props("dense outlined")
        .props("data-part=row")
    )
    chooser.move(target_index=1)
    show(leaves[0])


def _row(record: Mapping[str, Any], leaf: int) -> None:
    row, branch = segments(record, leaf), branch_of(record, leaf)
    scale = scale_of(record, ColorBy.ADVANTAGE).high
    block(row_block(row[1:], scale)).props("data-part=row-text")
    rows = [
        {
            "start": each.start, "tokens": each.tokens, "what": each.title.split(":")[0], "mask": int(each.trained),
            "advantage": "" if each.advantage is None else f"{each.advantage:+.4f}",
            "value": "" if each.value is None else f"{each.value:.4f}",
        }
        for each in row
    ]  # fmt: skip
    ui.table(columns=_columns(SEGMENT_COLUMNS), rows=rows).props("flat dense").props("data-part=segments")
    length = branch.get("response_tokens")
    cut = [start for start in branch.get("starts") or [] if length is not None and start >= length]
    if cut:
        ui.label(f"The response limit of {length} tokens cut {len(cut)} turns off.").classes("text-negative")


def _branches(record: Mapping[str, Any]) -> None:
    branches = record.get("branches") or []
    if not branches:
        ui.label("The dump holds nothing about single branches.").classes("faint")
        return
    rows = [{name: _cell(branch.get(name)) for name in BRANCH_COLUMNS} for branch in branches]
    table = ui.table(columns=_columns(BRANCH_COLUMNS), rows=rows, row_key="number")
    table.props("flat dense wrap-cells data-part=branches")


def _rest(record: Mapping[str, Any]) -> None:
    rest = {key: value for key, value in record.items() if key not in ("nodes", "branches", "summary", "prompt")}
    block(text_block(json.dumps(rest, ensure_ascii=False, indent=2, default=str), ["\0"], raw=True)).props(
        "data-part=record"
    )


def _columns(names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"name": name, "label": name.replace("_", " "), "field": name, "align": "left"} for name in names]


def _cell(value: Any) -> Any:
    if isinstance(value, Mapping):
        return visible(", ".join(f"{key} {_cell(each)}" for key, each in value.items()))
    if isinstance(value, list):
        return visible("; ".join(map(str, value)))
    return round(value, 3) if isinstance(value, float) else value
