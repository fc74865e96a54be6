"""The overview of a run: its health, curves, selections, and a table of trees with filters and full-text search."""

from __future__ import annotations

import dataclasses
import sqlite3
from typing import Any
from urllib.parse import quote

from nicegui import ui

from verl_atpo.render.colors import ColorBy, shade
from verl_atpo.render.text import decimal, shorten, visible, without_template
from verl_atpo.view import charts
from verl_atpo.view.filters import OUTCOMES, TROUBLES, Filters
from verl_atpo.view.health_strip import HealthStrip
from verl_atpo.view.index import Row
from verl_atpo.view.page import GRID, REFRESH_S, TOGGLE, frame, show_keys
from verl_atpo.view.run import Run
from verl_atpo.view.run_names import run_names
from verl_atpo.view.selections import GROUPINGS, bars, total

COLUMNS = {
    "step": "step",
    "prompt": "prompt",
    "outcome": "outcome",
    "reward": "mean reward",
    "leaves": "leaves",
    "depth": "depth",
    "saved": "tokens saved",
    "tool_errors": "tool errors",
    "outages": "outages",
    "diverged": "diverged",
    "regrown": "grown again",
    "seconds": "seconds",
}
MOST_DOTS = 64
NO_TREES = "no trees in {} yet: a run writes them with algorithm.atpo.dump_dir"
PROMPT_CELL = """
<q-td :props="props"><a class="prompt-link" :href="props.row.link">{{ props.row.prompt }}</a></q-td>
"""
OUTCOME_CELL = """
<q-td :props="props"><span :class="'badge ' + props.row.outcome">{{ props.row.outcome }}</span></q-td>
"""
REWARD_CELL = """
<q-td :props="props"><span v-for="color in props.row.dots.split(' ')" class="dot" :style="{background: color}"></span>
<span class="q-ml-sm">{{ props.row.reward }}</span></q-td>
"""


class Overview:
    """One visitor's overview.

    Args:
        run: that is looked at.
        filters: filters of the address.
    """

    def __init__(self, run: Run, filters: Filters) -> None:
        self.run = run
        self.filters = filters
        self._seen: tuple[int, int, int] | None = None
        frame(run, "overview")
        run.metrics.update()
        self.health = HealthStrip(run)
        self._charts()
        self._selections()
        with ui.element("div").classes("panel column").style("gap: 10px"):
            self._bar()
            self._table()
        self.refresh()
        ui.timer(REFRESH_S, self._follow, immediate=False)
        ui.keyboard(on_key=self._key)

    def _charts(self) -> None:
        self.charts: list[tuple[str, ui.echart]] = []
        with ui.element("div").style(GRID.format(255)):
            for title in charts.GROUPS:
                with ui.element("div").classes("panel"):
                    chart = ui.echart({}, on_point_click=lambda event: self._to_step(event.value[0]))
                    self.charts.append((title, chart.style("height: 210px")))
        with (
            ui.element("div").classes("panel q-py-none"),
            ui.expansion("more metrics").props("dense").classes("w-full"),
        ):
            self._chooser = ui.select([], multiple=True, value=[], label="metrics", with_input=True)
            self._chooser.classes("w-full").props("data-part=metrics").on_value_change(self._draw_charts)
            self._more = ui.echart({}).style("height: 320px")

    def _selections(self) -> None:
        """Add a panel that counts the turns selected for re-sampling, of the trees that pass the filters."""
        with (
            ui.element("div").classes("panel q-py-none"),
            ui.expansion("where turns were selected for re-sampling").props("dense data-part=selections")
            .classes("w-full") as opened,
            ui.element("div").style(GRID.format(300)),
        ):  # fmt: skip
            self.bars = {name: ui.echart({}).style("height: 230px").props("data-part=bars") for name in GROUPINGS}
        opened.on_value_change(lambda e: self._draw_selections() if e.value else None)
        self.opened = opened

    def _draw_selections(self) -> None:
        counts = total(self.run.index.selections(self.filters))
        for name, chart in self.bars.items():
            title = f"selections per 100 candidates, {GROUPINGS[name]}"
            chart.options.clear()
            chart.options.update(charts.bar_options(title, bars(counts[name], name)))
            chart.update()

    def _draw_charts(self) -> None:
        series = self.run.metrics.series
        for title, chart in self.charts:
            chart.options.clear()
            chart.options.update(charts.options(title, series, charts.members(series, title)))
            chart.update()
        chosen = self._chooser.value or []
        self._chooser.set_options(sorted(series), value=chosen)
        self._more.options.clear()
        self._more.options.update(charts.options("", series, chosen))
        self._more.update()

    def _bar(self) -> None:
        filters, field = self.filters, "dense outlined options-dense"
        with ui.row().classes("items-center w-full").style("gap: 12px"):
            self.search = ui.input(placeholder='search prompts and turns: words, "a phrase"', value=filters.text)
            self.search.props("dense outlined clearable debounce=300 data-part=search").classes("grow")
            self.search.on_value_change(lambda e: self._set(text=e.value or ""))
            outcomes = ui.toggle({"": "all", **{name: name for name in OUTCOMES}}, value=filters.outcome)
            outcomes.props(f"{TOGGLE} data-part=outcome").on_value_change(lambda e: self._set(outcome=e.value))
            troubles = ui.select(TROUBLES, multiple=True, value=list(filters.troubles), label="had")
            troubles.props(f"{field} use-chips data-part=troubles").style("min-width: 150px")
            troubles.on_value_change(lambda e: self._set(troubles=tuple(e.value or ())))
            for name, label in (("step_from", "step from"), ("step_to", "to")):
                step = ui.number(label, value=getattr(filters, name), min=0, precision=0).style("width: 110px")
                step.props(f"dense outlined debounce=300 clearable data-part={name}")
                step.on_value_change(
                    lambda e, name=name: self._set(**{name: None if e.value is None else int(e.value)})
                )
            names = {"": "all data", **{source: visible(source)[:60] for source in self.run.index.sources()}}
            sources = ui.select(names, value=filters.source if filters.source in names else "")
            sources.props(f"{field} data-part=source").on_value_change(lambda e: self._set(source=e.value))
            self.runs = ui.select({filters.run: filters.run}, value=filters.run, label="run")
            self.runs.props(f"{field} data-part=run").style("min-width: 150px")
            self.runs.on_value_change(lambda e: self._set(run=e.value))
        with ui.row().classes("items-center").style("gap: 16px"):
            self.count = ui.label().classes("faint").props("data-part=count")
            everything = ui.button("all trees", icon="filter_alt_off", on_click=lambda: ui.navigate.to("/"))
            everything.props("flat dense no-caps size=sm data-part=all")

    def _table(self) -> None:
        columns = [
            {"name": name, "label": label, "field": name, "sortable": True, "align": "center"}
            for name, label in COLUMNS.items()
        ]
        columns[1]["align"] = "left"
        self.table = ui.table(columns=columns, rows=[], row_key="uid", pagination={
            "rowsPerPage": 25, "page": 1, "rowsNumber": 0, "sortBy": self.filters.sort,
            "descending": self.filters.descending,
        }).classes("tree-table w-full").props("flat dense binary-state-sort").props("data-part=trees")  # fmt: skip
        self.table.props(":rows-per-page-options='[10, 25, 50, 100]'")
        self.table.add_slot("body-cell-prompt", PROMPT_CELL)
        self.table.add_slot("body-cell-outcome", OUTCOME_CELL)
        self.table.add_slot("body-cell-reward", REWARD_CELL)
        self.table.on("request", self._page)
        self.table.on("rowClick", lambda event: ui.navigate.to(event.args[1]["link"]))

    def _set(self, **changes: Any) -> None:
        self.filters = dataclasses.replace(self.filters, **changes)
        self.table.pagination["page"] = 1
        self.refresh()

    def _to_step(self, step: Any) -> None:
        query = dataclasses.replace(self.filters, step_from=int(step), step_to=int(step)).to_query()
        ui.navigate.to(f"/?{query}")

    def _page(self, event: Any) -> None:
        wanted = event.args["pagination"]
        self.table.pagination.update(wanted)
        sort = wanted.get("sortBy") or "step"
        self.filters = dataclasses.replace(self.filters, sort=sort, descending=bool(wanted.get("descending")))
        self.refresh()

    def refresh(self) -> None:
        """Show the trees that pass the filters."""
        try:
            self._refresh()
        except (sqlite3.Error, OSError) as error:  # the header says it too, and what to do
            self.count.text = f"The index cannot be read: {error}"
        self._draw_charts()

    def _name_runs(self) -> None:
        """Offer the runs that the folder holds, if there are several."""
        runs = run_names(self.run)
        self.runs.set_visibility(len(runs) > 1 or bool(self.filters.run))
        choices = {"": f"all {len(runs)} runs", **runs}
        if choices != self.runs.options:
            self.runs.set_options(choices, value=self.filters.run if self.filters.run in choices else "")

    def _refresh(self) -> None:
        self._name_runs()
        pagination, index = self.table.pagination, self.run.index
        count, size = index.count(self.filters), pagination["rowsPerPage"]
        rows = index.find(self.filters, size, (pagination["page"] - 1) * size)
        query = self.filters.to_query()
        self.table.rows = [row_of(row, query) for row in rows]
        pagination["rowsNumber"] = count
        self.table.update()
        known = index.progress().trees
        self.count.text = f"{count:,} of {known:,} trees" if known else NO_TREES.format(visible(str(self.run.folder)))
        ui.navigate.history.replace("/" + (f"?{query}" if query else ""))
        if self.opened.value:
            self._draw_selections()

    def _follow(self) -> None:
        """Show what came since, and leave everything alone if nothing did."""
        self.run.metrics.update()
        self.health.refresh()
        try:
            progress = self.run.index.progress()
        except (sqlite3.Error, OSError):
            return
        points = sum(map(len, self.run.metrics.series.values()))
        seen = (progress.trees + progress.skipped, points, progress.worded if self.filters.text else 0)
        if seen != self._seen:
            self._seen = seen
            self.refresh()

    def _key(self, event: Any) -> None:
        if not event.action.keydown:
            return
        if event.key.name == "/":
            self.search.run_method("focus")
        elif event.key.name == "?":
            show_keys()


def row_of(row: Row, query: str) -> dict[str, Any]:
    """Make the table's row of a tree: text and numbers, and an address of our own."""
    summary = row.summary
    rewards = summary["rewards"]
    low, high = min(rewards, default=0.0), max(rewards, default=0.0)
    shown = rewards[:MOST_DOTS]
    strengths = [0.0 if low == high else 2 * (reward - low) / (high - low) - 1 for reward in shown]
    cells: dict[str, Any] = {name: summary.get(name) for name in COLUMNS}
    return {
        **cells,
        "uid": f"{row.id}",
        "prompt": shorten(visible(" ".join(without_template(summary["prompt"], []).split())), 120) or "(empty)",
        "reward": _decimals(summary["reward"], 2),
        "saved": "" if summary["saved"] is None else f"{summary['saved']:.0%}",
        "seconds": _decimals(summary["seconds"], 1),
        "dots": " ".join(shade(strength, ColorBy.VALUE).edge for strength in strengths),
        "link": f"/tree/{quote(summary['uid'], safe='')}" + (f"?{query}" if query else ""),
    }


def _decimals(value: float | None, digits: int) -> str:
    return "" if value is None else decimal(value, digits)
