"""The page of a folder's runs: two of them side by side, in curves, metrics and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlencode

from nicegui import ui

from verl_atpo.render.text import decimal, shorten, signed, visible, without_template
from verl_atpo.view import charts
from verl_atpo.view.index import RunFacts
from verl_atpo.view.metrics import Series
from verl_atpo.view.page import GRID, frame
from verl_atpo.view.run import Run
from verl_atpo.view.run_names import label

COLUMNS = {
    "reward": "mean reward of trees",
    "depth": "turns of the deepest trajectory",
    "sampled_tokens": "sampled tokens of a tree",
    "tool_errors": "tool errors of a tree",
    "seconds": "seconds of a tree",
}
METRICS = ("val-core/", "actor/entropy", "actor/ppo_kl", "actor/grad_norm", "timing_s/step")
MOST_CHARTS = 12
MOST_TASKS = 50
HINT = "This folder holds one run. Open a folder above several, or resume a run, to see two side by side."


def compare_page(run: Run, query: Mapping[str, str]) -> None:
    """Show the runs of a folder, two of them side by side.

    Args:
        run: the folder that is looked at.
        query: query of the address; ``a`` and ``b`` name runs, by default the two latest.
    """
    frame(run, "runs")
    runs = {facts.name: facts for facts in run.index.runs()}
    names = {name: label(facts) for name, facts in runs.items()}
    with ui.element("div").classes("panel column").style("gap: 6px"):
        ui.label("Runs of this folder").classes("text-h6")
        for name, words in names.items():
            ui.link(words, f"/?{urlencode({'run': name})}").props("data-part=run")
    if len(runs) < 2:
        ui.label(HINT).classes("faint").props("data-part=one-run")
        return
    latest = list(runs)
    right = query.get("b", "") if query.get("b") in runs else latest[0]
    left = query.get("a", "") if query.get("a") in runs else next(name for name in latest if name != right)

    def go(**changed: str) -> None:
        ui.navigate.to(f"/compare?{urlencode({'a': left, 'b': right, **changed})}")

    with ui.element("div").classes("panel"), ui.row().classes("items-center").style("gap: 12px"):
        ui.select(names, value=left, label="A", on_change=lambda e: go(a=e.value)).props("dense outlined data-part=a")
        ui.select(names, value=right, label="B", on_change=lambda e: go(b=e.value)).props("dense outlined data-part=b")
    _curves(run, runs[left], runs[right])
    _tasks(run, left, right)


def _curves(run: Run, left: RunFacts, right: RunFacts) -> None:
    run.metrics.update()
    with ui.element("div").style(GRID.format(300)):
        for column, title in COLUMNS.items():
            _chart(title, {"A": run.index.means(left.name, column), "B": run.index.means(right.name, column)})
        one, other = metrics_of(run, left), metrics_of(run, right)
        if one is other:  # two starts share a file, which does not say whose a line is
            return
        for name in [name for name in sorted({*one, *other}) if name.startswith(METRICS)][:MOST_CHARTS]:
            _chart(charts.short(name), {"A": one.get(name, []), "B": other.get(name, [])})


def _chart(title: str, series: Series) -> None:
    with ui.element("div").classes("panel"):
        chart = ui.echart(charts.options(title, series, [name for name, points in series.items() if points]))
        chart.style("height: 200px").props("data-part=compared")


def metrics_of(run: Run, facts: RunFacts) -> Series:
    """Find the metrics of a run: those of the file in its folder, or in the nearest one above."""
    folder = run.folder / facts.folder
    nearest: tuple[int, Series] = (-1, {})
    for file, series in run.metrics.by_file.items():
        above = _depth_above(file.parent.resolve(), folder)
        if above is not None and above >= nearest[0]:
            nearest = above, series
    return nearest[1]


def _depth_above(one: Path, other: Path) -> int | None:
    """Number of parts of a folder that is another, or above it."""
    return len(one.parts) if one == other or one in other.parents else None


def _tasks(run: Run, left: str, right: str) -> None:
    """Show a table of the tasks that both runs sampled, by descending difference of reward."""
    tasks = run.index.tasks(left, right, MOST_TASKS)
    with ui.element("div").classes("panel"):
        ui.label(f"Tasks of both runs, by difference of their mean reward (the {len(tasks)} largest)").classes("label")
        names = ("task", "A", "B", "B - A", "trees")
        columns = [{"name": name, "label": name, "field": name, "align": "left"} for name in names]
        rows = [
            {
                "key": task.key, "task": shorten(visible(" ".join(without_template(task.prompt, []).split())), 100),
                "A": decimal(task.left), "B": decimal(task.right), "B - A": signed(task.right - task.left),
                "trees": f"{task.left_trees} and {task.right_trees}",
            }
            for task in tasks
        ]  # fmt: skip
        table = ui.table(columns=columns, rows=rows, row_key="key", pagination=15)
        table.props("flat dense data-part=tasks").classes("tree-table w-full")
        table.on("rowClick", lambda event: ui.navigate.to(f"/prompt/{quote(str(event.args[1]['key']), safe='')}"))
