"""The tabs below a tree: transcript, time line, rows of the trainer, trajectories, and the rest of the record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nicegui import ui

from verl_atpo.render.colors import ColorBy, scale_of
from verl_atpo.render.comparison import contexts
from verl_atpo.render.explanation import explain
from verl_atpo.render.markup import row_block, text_block, transcript_block
from verl_atpo.render.text import signed, visible
from verl_atpo.render.timeline import draw_timeline
from verl_atpo.render.trajectory import leaf_through, leaves_of, segments, trajectory_of, transcript
from verl_atpo.view.page import block

TABS = ("transcript", "time line", "rows", "trajectories", "record")
SEGMENT_COLUMNS = ("start", "tokens", "what", "mask", "advantage", "value")
TRAJECTORY_COLUMNS = ("number", "leaf", "round", "reward", "own_turns", "response_tokens", "started_s", "ended_s",
                  "diverged", "selection", "failures", "reward_extra")  # fmt: skip
TITLES = {"selection": "selected because", "own_turns": "own turns"}


class Details:
    """Tabs with everything that is not the picture.

    Args:
        record: the tree.
        node: the selected turn, whose trajectory is shown at first.
    """

    def __init__(self, record: Mapping[str, Any], node: int) -> None:
        self.record, self.leaves = record, leaves_of(record)
        self.numbers = contexts(record["nodes"])
        with ui.element("div").classes("panel"):
            with ui.tabs().props("dense no-caps align=left") as tabs:
                for name in TABS:
                    ui.tab(name).props(f"data-part=tab-{name.split()[0]}")
            with ui.tab_panels(tabs, value=TABS[0]).classes("w-full"):
                with ui.tab_panel("transcript"):
                    self._transcripts(leaf_through(record, node))
                with ui.tab_panel("time line"):
                    self._timeline()
                with ui.tab_panel("rows"):
                    self._rows()
                with ui.tab_panel("trajectories"):
                    self._trajectories()
                with ui.tab_panel("record"):
                    self._rest()

    def select(self, node: int) -> None:
        """Show the transcript of a trajectory through a turn, unless the current one is."""
        leaf = leaf_through(self.record, node)
        if self.leaves and leaf is not None and leaf_through(self.record, self.chooser.value) != leaf:
            self.chooser.set_value(leaf)

    def _named(self) -> dict[int, str]:
        named = {}
        for number, leaf in enumerate(self.leaves):
            reward = trajectory_of(self.record, leaf).get("reward")
            named[leaf] = f"trajectory {number}, node {leaf}" + ("" if reward is None else f", reward {reward:g}")
        return named

    def _transcripts(self, leaf: int | None) -> None:
        if leaf is None:
            ui.label("No trajectory ended.").classes("faint")
            return
        self.chooser = ui.select(self._named(), value=leaf, on_change=lambda e: self._transcript(e.value))
        self.chooser.props("dense outlined data-part=transcript-of")
        self.area = ui.element("div").props("data-part=transcript")
        self._transcript(leaf)

    def _transcript(self, leaf: int) -> None:
        nodes = {node["index"]: node for node in self.record["nodes"]}
        events = transcript(self.record, leaf)
        words = {each.node: explain(self.record, nodes[each.node], self.numbers)[:1]
                 for each in events if each.node is not None}  # fmt: skip
        self.area.clear()
        with self.area:
            block(transcript_block(events, words, self.record.get("template") or []))

    def _timeline(self) -> None:
        drawn = draw_timeline(self.record)
        if drawn is None:
            ui.label("The dump does not say when trajectories ran.").classes("faint")
        else:
            block(drawn, "picture").props("data-part=timeline")

    def _rows(self) -> None:
        if not self.leaves:
            ui.label("No trajectory ended.").classes("faint")
            return
        words = "The trainer's row of a trajectory: trained tokens are coloured by their advantage, masked ones grey."
        ui.label(words).classes("faint")
        chooser = ui.select(self._named(), value=self.leaves[0], on_change=lambda e: show(e.value))
        chooser.props("dense outlined data-part=row")
        area = ui.element("div")

        def show(leaf: int) -> None:
            area.clear()
            with area:
                self._row(leaf)

        show(self.leaves[0])

    def _row(self, leaf: int) -> None:
        row, trajectory = segments(self.record, leaf), trajectory_of(self.record, leaf)
        scale = scale_of(self.record, ColorBy.ADVANTAGE).high
        block(row_block(row[1:], scale)).props("data-part=row-text")
        rows = [
            {
                "start": each.start, "tokens": each.tokens, "what": each.title.split(":")[0],
                "mask": int(each.trained),
                "advantage": "" if each.advantage is None else signed(each.advantage, 4),
                "value": "" if each.value is None else f"{each.value:.4f}",
            }
            for each in row
        ]  # fmt: skip
        ui.table(columns=_columns(SEGMENT_COLUMNS), rows=rows).props("flat dense").props("data-part=segments")
        length = trajectory.get("response_tokens")
        cut = [start for start in trajectory.get("starts") or [] if length is not None and start >= length]
        if cut:
            ui.label(f"The response limit of {length} tokens cut {len(cut)} turns off.").classes("text-negative")

    def _trajectories(self) -> None:
        trajectories = self.record.get("trajectories") or []
        if not trajectories:
            ui.label("The dump has no records of single trajectories.").classes("faint")
            return
        rows = [{name: _cell(trajectory.get(name)) for name in TRAJECTORY_COLUMNS} for trajectory in trajectories]
        table = ui.table(columns=_columns(TRAJECTORY_COLUMNS), rows=rows, row_key="number")
        table.props("flat dense wrap-cells data-part=trajectories")

    def _rest(self) -> None:
        left_out = ("nodes", "trajectories", "summary", "prompt")
        rest = {key: value for key, value in self.record.items() if key not in left_out}
        text = json.dumps(rest, ensure_ascii=False, indent=2, default=str)
        block(text_block(text, ["\0"], raw=True)).props("data-part=record")


def _columns(names: tuple[str, ...]) -> list[dict[str, Any]]:
    labels = {name: TITLES.get(name, name.replace("_", " ")) for name in names}
    return [{"name": name, "label": label, "field": name, "align": "left"} for name, label in labels.items()]


def _cell(value: Any) -> Any:
    if isinstance(value, Mapping):
        return visible(", ".join(f"{key} {_cell(each)}" for key, each in value.items()))[:2000]
    if isinstance(value, list):
        return visible("; ".join(map(str, value)))[:2000]
    if isinstance(value, str):
        return visible(value)[:2000]
    return round(value, 3) if isinstance(value, float) else value
