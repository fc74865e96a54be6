"""A prompt over time: its trees at the steps where it came up, and what changed in turns, values and rewards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from nicegui import ui

from verl_atpo.view import charts
from verl_atpo.view.blocks import text_block
from verl_atpo.view.filters import Filters
from verl_atpo.view.frame import block, frame
from verl_atpo.view.layout import ROOT, below, children_of
from verl_atpo.view.record import Record
from verl_atpo.view.run import Run
from verl_atpo.view.text import headline, shorten, visible, without_template
from verl_atpo.view.thumbnail import draw_thumbnail

MOST_TREES = 60
MOST_TURNS = 12


def prompt_page(run: Run, key: str) -> None:
    """The page of one prompt.

    Args:
        run: what is looked at.
        key: of the prompt, as summaries name it.
    """
    frame(run, "a prompt over time")
    rows = run.index.find(Filters(prompt_key=key, descending=False), MOST_TREES)
    if not rows:
        ui.label("No tree of this prompt is in the run.").classes("text-h6")
        return
    records = [run.index.record(row) for row in rows]
    with ui.element("div").classes("panel"):
        block(text_block(records[0].get("prompt", ""), records[0].get("template") or []))
        ui.label(f"{len(records)} trees, steps {rows[0].summary['step']} to {rows[-1].summary['step']}").classes(
            "faint"
        )
    columns = "display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr))"
    with ui.element("div").classes("panel").style(columns):
        for name, points in curves(records).items():
            chart = ui.echart(charts.options(name, {name: points}, [name]))
            chart.style("height: 190px").props("data-part=curve")
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
                    reward = "?" if summary["reward"] is None else f"{summary['reward']:.2f}"
                    ui.label(f"step {summary['step']} · {reward}").classes("text-caption text-center text-grey-8")
    with ui.element("div").classes("panel").style("overflow-x: auto"):
        ui.label("First turns: share of trajectories, and value").classes("label")
        _turns(records)


def curves(records: Sequence[Record]) -> dict[str, list[tuple[int, float]]]:
    """What changed from step to step."""
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


def first_turns(record: Mapping[str, Any]) -> dict[str, tuple[float, float | None]]:
    """What the policy began with: by headline, the share of the tree's leaves below it and their mean reward."""
    nodes = {node["index"]: node for node in record["nodes"]}
    children = children_of(record["nodes"])
    leaves: dict[str, int] = defaultdict(int)
    rewards: dict[str, list[float]] = defaultdict(list)
    for index in children.get(ROOT, ()):
        words = headline(without_template(nodes[index]["text"], record.get("template") or []))
        for each in [index, *below(children, index)]:
            if nodes[each].get("is_leaf"):
                leaves[words] += 1
                if nodes[each].get("reward") is not None:
                    rewards[words].append(nodes[each]["reward"])
    total = sum(leaves.values()) or 1
    means = {words: sum(each) / len(each) for words, each in rewards.items()}
    return {words: (count / total, means.get(words)) for words, count in leaves.items()}


def _turns(records: Sequence[Record]) -> None:
    by_step = [(record["global_step"], first_turns(record)) for record in records]
    weight: dict[str, float] = defaultdict(float)
    for _, turns in by_step:
        for words, (share, _) in turns.items():
            weight[words] += share
    names = sorted(weight, key=lambda words: -weight[words])[:MOST_TURNS]
    columns: list[dict[str, Any]] = [{"name": "turn", "label": "first turn", "field": "turn", "align": "left"}]
    rows: list[dict[str, Any]] = [{"turn": shorten(visible(words), 70)} for words in names]
    for number, (step, turns) in enumerate(by_step):
        columns.append({"name": f"s{number}", "label": f"step {step}", "field": f"s{number}", "align": "center"})
        for row, words in zip(rows, names, strict=True):
            row[f"s{number}"] = _share(turns.get(words))
    ui.table(columns=columns, rows=rows, row_key="turn").props("flat dense").props("data-part=first-turns")


def _share(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return ""
    share, mean = found
    return f"{share:.0%}" + ("" if mean is None else f"  ·  {mean:.2f}")
