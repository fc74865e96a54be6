"""The selected turn: what it saw and sampled, its numbers, why it was picked, and its siblings as a diff."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nicegui import ui

from verl_atpo.view.alike import twins
from verl_atpo.view.blocks import diff_blocks, heat_block, text_block
from verl_atpo.view.colors import ColorBy, scale_of
from verl_atpo.view.frame import block
from verl_atpo.view.layout import ROOT
from verl_atpo.view.text import headline, shorten, visible, without_template


class Panel:
    """Shows one turn at a time.

    Args:
        record: the tree.
        select: called with a node that the user wants to see.
    """

    def __init__(self, record: Mapping[str, Any], select: Callable[[int], None]) -> None:
        self.record, self.select = record, select
        self.nodes = {node["index"]: node for node in record.get("nodes") or []}
        self.twins = twins(list(self.nodes.values()))
        self.template = record.get("template") or []
        self.whole = False
        self.tabs = "turn"
        self.body = ui.element("div").classes("column").style("gap: 4px").props("data-part=panel")

    def show(self, index: int, *, heat: bool, raw: bool) -> None:
        """Show a turn.

        Args:
            index: its node; the root shows the prompt.
            heat: token NLLs as a heat map.
            raw: with the chat template.
        """
        self.body.clear()
        with self.body:
            node = self.nodes.get(index)
            if node is None:
                ui.label("The prompt").classes("text-h6")
                block(text_block(self.record.get("prompt", ""), self.template, raw=raw))
                return
            ui.label(f"Turn {node['turn']}, node {index}").classes("text-h6").props("data-part=selected")
            self._numbers(node)
            self._why(node)
            siblings = [each for each in self.nodes.values() if each["parent"] == node["parent"] and each is not node]
            with ui.tabs(on_change=lambda e: self._remember(e.value)).props("dense no-caps align=left") as tabs:
                ui.tab("turn", label="what it saw and said")
                ui.tab("siblings", label=f"siblings ({len(siblings)})").props("data-part=siblings")
            with ui.tab_panels(tabs, value=self.tabs).classes("w-full").props("keep-alive"):
                with ui.tab_panel("turn").classes("q-pa-none"):
                    self._texts(node, heat, raw)
                with ui.tab_panel("siblings").classes("q-pa-none"):
                    Siblings(node, siblings, self)

    def _remember(self, tab: str) -> None:
        self.tabs = tab

    def _numbers(self, node: Mapping[str, Any]) -> None:
        with ui.element("div").classes("number-grid"):
            for name, value in numbers(node).items():
                with ui.element("div"):
                    ui.label(name)
                    ui.html(f"<b>{value}</b>", sanitize=False)
        branch = self._branch_ending(node)
        extra = {**(branch.get("reward_extra") or {})}
        if extra:
            ui.label("  ".join(f"{key} {value}" for key, value in extra.items())).classes("faint").props(
                "data-part=reward-extra"
            )

    def _branch_ending(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        return next((each for each in self.record.get("branches") or [] if each.get("leaf") == node["index"]), {})

    def _why(self, node: Mapping[str, Any]) -> None:
        alike = self.twins.get(node["index"], [])
        same = [f"Says the same, after the same, as node {', '.join(map(str, alike))}."] if alike else []
        for words in [*reasons(self.record, node), *same]:
            with ui.row().classes("items-start no-wrap").style("gap: 6px"):
                ui.icon("call_split", size="16px", color="primary")
                ui.label(words).classes("text-caption").props("data-part=why")

    def _texts(self, node: Mapping[str, Any], heat: bool, raw: bool) -> None:
        if node.get("observation"):
            ui.label("observed").classes("label")
            with ui.element("div").classes("seen"):
                block(text_block(node["observation"], self.template, raw=raw, whole=self.whole)).props(
                    "data-part=observed"
                )
        for call in node.get("tool_calls") or []:
            if call.get("error"):
                ui.label(f"tool {call.get('name')}: {visible(str(call['error']))}").classes(
                    "text-negative text-caption"
                )
            elif call.get("made") is False:
                ui.label(f"tool {call.get('name')}: over the limit of calls").classes("text-negative text-caption")
        ui.label("sampled").classes("label")
        hot = heat_block(node, whole=self.whole) if heat else None
        if heat and hot is None:
            ui.label("The dump holds no NLL per token of this turn.").classes("faint")
        block(hot or text_block(node.get("text", ""), self.template, raw=raw, whole=self.whole)).props(
            "data-part=sampled"
        )


class Siblings:
    """The other turns that were sampled in the same context, one of them beside the selected one.

    Args:
        node: the selected turn.
        siblings: the others.
        panel: where to go when one is chosen.
    """

    def __init__(self, node: Mapping[str, Any], siblings: list[Mapping[str, Any]], panel: Panel) -> None:
        self.node, self.panel = node, panel
        if not siblings:
            ui.label("No other turn was sampled in this context.").classes("faint")
            return
        self.by_index = {each["index"]: each for each in siblings}
        shade = scale_of(panel.record, ColorBy.VALUE).shade
        for each in siblings:
            words = shorten(headline(without_template(each["text"], panel.template)), 46)
            row = ui.row().classes("items-center no-wrap w-full cursor-pointer").style("gap: 8px")
            with row.on("click", lambda each=each: self._compare(each["index"])).props(
                f"data-part=sibling-{each['index']}"
            ):
                block(f"<span class='dot' style='background:{shade(each).edge}'></span>")
                mark = "= " if each["index"] in panel.twins.get(node["index"], []) else ""
                ui.label(mark + words).classes("grow text-caption")
                ui.label(f"V {_plain(each.get('value')) or '?'}").classes("text-caption text-weight-bold").style(
                    "white-space: nowrap"
                )
                ui.button(icon="arrow_forward", on_click=lambda each=each: panel.select(each["index"])).props(
                    "flat dense size=xs"
                )
        self.area = ui.element("div").classes("w-full").props("data-part=diff")
        self._compare(
            min(siblings, key=lambda each: -abs((each.get("value") or 0) - (node.get("value") or 0)))["index"]
        )

    def _compare(self, index: int) -> None:
        other = self.by_index[index]
        template = self.panel.template
        one, two = diff_blocks(without_template(self.node["text"], template), without_template(other["text"], template))
        self.area.clear()
        with self.area:
            for index_, value, content in (
                (self.node["index"], self.node.get("value"), one),
                (index, other.get("value"), two),
            ):
                ui.label(f"node {index_}, value {_plain(value) or '?'}").classes("label")
                block(content)


def numbers(node: Mapping[str, Any]) -> dict[str, str]:
    """What the dump says of a turn in numbers, by name, as it is shown."""
    shown = {
        "advantage": _signed(node.get("advantage")), "value": _plain(node.get("value")),
        "NLL": _plain(node.get("mean_nll")), "tokens": _plain(node.get("tokens")),
        "reward": _plain(node.get("reward")), "tool reward": _plain(node.get("tool_reward")),
        "information gain": _signed(node.get("information_gain")), "round": _plain(node.get("round")),
        "generation": _seconds(node.get("generation_s")), "tools": _seconds(node.get("tool_s")),
    }  # fmt: skip
    return {name: value for name, value in shown.items() if value is not None}


def reasons(record: Mapping[str, Any], node: Mapping[str, Any]) -> list[str]:
    """In words: why the turn's branch began where it did, and how often the turn itself was sampled again."""
    found = []
    branches = record.get("branches") or []
    own = next((each for each in branches if each.get("number") == node.get("branch")), None)
    if own is not None and own.get("picked") and _first_of(record, own) == node["index"]:
        found.append(f"This branch starts here: {_pick_words(own['picked'])}.")
    for branch in branches:
        pick = branch.get("picked")
        if pick and pick.get("node") == node["index"]:
            found.append(
                f"Sampled again in round {branch.get('round')} (branch {branch.get('number')}): {_score(pick)}."
            )
    times = (record.get("picked") or []).count(node["index"])
    if times and not any("Sampled again" in words for words in found):
        found.append(f"Picked to be sampled again {times} time{'s' if times > 1 else ''}.")
    return found


def _first_of(record: Mapping[str, Any], branch: Mapping[str, Any]) -> int | None:
    return min((each["index"] for each in record["nodes"] if each.get("branch") == branch.get("number")), default=None)


def _pick_words(pick: Mapping[str, Any]) -> str:
    if pick.get("node") == ROOT:
        return f"a fresh chain from the prompt, {_score(pick)}"
    return f"node {pick.get('node')} was sampled again, {_score(pick)}"


def _score(pick: Mapping[str, Any]) -> str:
    parts = []
    if pick.get("score") is not None:
        parts.append(f"score {pick['score']:.3f}")
    if pick.get("penalty") is not None:
        parts.append(f"penalty {pick['penalty']:.3f}")
    if pick.get("rank") is not None:
        parts.append(f"rank {pick['rank']} of {pick.get('candidates', '?')} candidates")
    return ", ".join(parts) or "the dump does not say why"


def _plain(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _signed(value: float | None) -> str | None:
    return None if value is None else f"{value:+.2f}"


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f} s"
