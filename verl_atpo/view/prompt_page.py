"""The page of one task over time: its trees by step, and what changed in turns, values and rewards."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from nicegui import ui

from verl_atpo.render.comparison import Node, side_by_side, turns_by_words
from verl_atpo.render.markup import diff_blocks, text_block
from verl_atpo.render.text import decimal, shorten, visible, without_template
from verl_atpo.render.thumbnail import draw_thumbnail
from verl_atpo.report.dump_reader import OddLine
from verl_atpo.report.record import Record
from verl_atpo.view import charts
from verl_atpo.view.filters import Filters
from verl_atpo.view.index import Row
from verl_atpo.view.page import TOGGLE, block, frame
from verl_atpo.view.run import Run

MOST_TREES = 60
MOST_CURVES = 4
MOST_TURNS = 12


def prompt_page(run: Run, key: str) -> None:
    """Show one task.

    Args:
        run: that is looked at.
        key: key of the task, as summaries name it.
    """
    frame(run, "a task over time")
    filters = Filters(prompt_key=key, descending=False)
    rows, known = run.index.find(filters, MOST_TREES), run.index.count(filters)
    if not rows:
        ui.label("No tree of this task is in the run.").classes("text-h6")
        return
    records = _readable(run, rows)
    if not records:
        ui.label("The trees of this task cannot be read: the dump has been overwritten, or its lines are invalid.")
        return
    with ui.element("div").classes("panel"):
        block(text_block(records[0].get("prompt", ""), records[0].get("template") or []))
        first, last = records[0], records[-1]
        whole = f"{len(records)} tree{'s' if len(records) > 1 else ''}"
        shown = whole if len(records) == known else f"The first {len(records)} of {known:,} trees"
        steps = [first["global_step"], last["global_step"]]
        words = f"{shown}, " + (f"step {steps[0]}" if steps[0] == steps[1] else f"steps {steps[0]} to {steps[1]}")
        answer = visible(str(first["ground_truth"]))[:300]
        ui.label(f"{words}; right answer {answer}").classes("faint").props("data-part=task-facts")
        if len({record.get("start") for record in records}) > 1:
            ui.label("They come from several starts of the run.").classes("faint")
    columns = "display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr))"
    with ui.element("div").classes("panel").style(columns):
        for name, points in curves(records).items():
            chart = ui.echart(charts.options(name, {name: points}, [name]))
            chart.style("height: 190px").props("data-part=curve")
        values = values_by_turn(records)
        chart = ui.echart(charts.options("mean value of turns", values, list(values)))
        chart.style("height: 190px").props("data-part=curve")
    _stamps(records)
    with ui.element("div").classes("panel").style("overflow-x: auto"):
        _Turns(records)
    if len(records) > 1:
        with ui.element("div").classes("panel"):
            _Comparison(records)


def _stamps(records: Sequence[Record]) -> None:
    with ui.element("div").classes("panel"):
        ui.label("Trees (a dot is a turn, its colour the value)").classes("label")
        with ui.row().style("gap: 14px"):
            for record in records:
                summary = record["summary"]
                with (
                    ui.link(target=f"/tree/{quote(record['uid'], safe='')}")
                    .classes("no-underline")
                    .props("data-part=stamp")
                ):
                    block(draw_thumbnail(record))
                    reward = "?" if summary["reward"] is None else decimal(summary["reward"])
                    ui.label(f"step {summary['step']} · {reward}").classes("text-caption text-center text-grey-8")


def _readable(run: Run, rows: Sequence[Row]) -> list[Record]:
    found = []
    for row in rows:
        with contextlib.suppress(OSError, OddLine):
            found.append(run.index.record(row))
    return found


def curves(records: Sequence[Record]) -> dict[str, list[tuple[int, float]]]:
    """Collect what changed from step to step."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for record in records:
        summary, step = record["summary"], record["global_step"]
        if summary["reward"] is not None:
            found["mean reward"].append((step, summary["reward"]))
        leaves = [node["turn"] for node in record["nodes"] if node.get("is_leaf")]
        if leaves:
            found["mean turns"].append((step, sum(leaves) / len(leaves)))
        nlls = [nll for node in record["nodes"] if (nll := node.get("mean_nll")) is not None]
        if nlls:
            found["mean NLL"].append((step, sum(nlls) / len(nlls)))
    return dict(found)


def values_by_turn(records: Sequence[Record]) -> dict[str, list[tuple[int, float]]]:
    """Collect the mean value of first turns, of second ones and so on, from step to step."""
    found: dict[str, list[tuple[int, float]]] = {}
    for number in range(1, MOST_CURVES + 1):
        for record in records:
            values = [node["value"] for node in record["nodes"] if node["turn"] == number]
            known = [value for value in values if value is not None]
            if known:
                found.setdefault(f"turn {number}", []).append((record["global_step"], sum(known) / len(known)))
    return found


class _Turns:
    """Table of what trajectories said in one of their turns, step by step; a switch chooses the turn."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        deepest = max((node["turn"] for record in records for node in record["nodes"]), default=1)
        with ui.row().classes("items-center").style("gap: 12px"):
            ui.label("Sampled texts: share of trajectories, and their mean reward").classes("label")
            numbers = {number: f"turn {number}" for number in range(1, min(deepest, MOST_TURNS) + 1)}
            chooser = ui.toggle(numbers, value=1, on_change=lambda e: self.show(e.value))
            chooser.props(f"{TOGGLE} data-part=turn")
        self.area = ui.element("div")
        self.show(1)

    def show(self, number: int) -> None:
        """Show a turn, by its number."""
        by_step = [(record["global_step"], turns_by_words(record, number)) for record in self.records]
        weight: dict[str, float] = defaultdict(float)
        for _, turns in by_step:
            for words, (share, _) in turns.items():
                weight[words] += share
        names = sorted(weight, key=lambda words: -weight[words])[:MOST_TURNS]
        columns: list[dict[str, Any]] = [{"name": "turn", "label": f"turn {number}", "field": "turn", "align": "left"}]
        rows: list[dict[str, Any]] = [{"turn": shorten(visible(words), 70)} for words in names]
        for at, (step, turns) in enumerate(by_step):
            columns.append({"name": f"s{at}", "label": f"step {step}", "field": f"s{at}", "align": "center"})
            for row, words in zip(rows, names, strict=True):
                row[f"s{at}"] = _share(turns.get(words))
        self.area.clear()
        with self.area:
            ui.table(columns=columns, rows=rows, row_key="turn").props("flat dense").props("data-part=turns")


def _share(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return ""
    share, mean = found
    return f"{share:.0%}" + ("" if mean is None else f"  ·  {decimal(mean)}")


class _Comparison:
    """The best trajectories of two trees, turn by turn, with the differences in words, values and reward."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        names = {at: f"step {record['global_step']}" for at, record in enumerate(records)}
        with ui.row().classes("items-center").style("gap: 12px"):
            ui.label("What changed: the best trajectory of each tree, as a diff").classes("label")
            self.choosers = [
                ui.select(names, value=at, on_change=self.show).props(f"dense outlined data-part={part}")
                for at, part in ((0, "before"), (len(records) - 1, "after"))
            ]
        grid = "display: grid; grid-template-columns: 1fr 1fr; gap: 4px 14px"
        self.area = ui.element("div").style(grid).props("data-part=changes")
        self.show()

    def show(self) -> None:
        """Show the two chosen trees."""
        before, after = (self.records[chooser.value] for chooser in self.choosers)
        self.area.clear()
        with self.area:
            for step in side_by_side(before, after):
                words = [
                    without_template(node["text"], record.get("template") or []) if node else ""
                    for node, record in ((step.before, before), (step.after, after))
                ]
                for node, content in zip((step.before, step.after), diff_blocks(*words), strict=True):
                    with ui.element("div"):
                        ui.label(_measures(step.number, node)).classes("label")
                        block(content)


def _measures(number: int, node: Node | None) -> str:
    if node is None:
        return f"turn {number}: had ended"
    shown = [f"{name} {decimal(node[name])}" for name in ("value", "reward") if node.get(name) is not None]
    return ", ".join([f"turn {number}, node {node['index']}", *shown])
