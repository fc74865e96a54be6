"""The panel of the selected turn: its texts, numbers, the explanation of its advantage, and its context's turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nicegui import ui

from verl_atpo.render.colors import ColorBy, scale_of
from verl_atpo.render.comparison import contexts, equal_turns, same_context
from verl_atpo.render.explanation import explain, prompt_value, reasons
from verl_atpo.render.markup import diff_blocks, dot, heat_block, tag, text_block
from verl_atpo.render.text import decimal, headline, shorten, signed, visible, without_template
from verl_atpo.view.page import block


class TurnPanel:
    """Shows one turn at a time.

    Args:
        record: the tree.
        select: called with a node that the user wants to see.
    """

    def __init__(self, record: Mapping[str, Any], select: Callable[[int], None]) -> None:
        self.record, self.select = record, select
        nodes = record.get("nodes") or []
        self.nodes = {node["index"]: node for node in nodes}
        self.contexts, self.equal = contexts(nodes), equal_turns(nodes)
        self.template = record.get("template") or []
        self.tab = "turn"
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
                if words := prompt_value(self.record):
                    ui.label(words).classes("text-caption").props("data-part=prompt-value")
                block(text_block(self.record.get("prompt", ""), self.template, raw=raw))
                return
            ui.label(f"Turn {node['turn']}, node {index}").classes("text-h6").props("data-part=selected")
            self._numbers(node)
            self._words(node)
            others = same_context(list(self.nodes.values()), node, self.contexts)
            with ui.tabs(on_change=lambda e: self._remember(e.value)).props("dense no-caps align=left") as tabs:
                ui.tab("turn", label="observation and text")
                ui.tab("siblings", label=f"same context ({len(others)})").props("data-part=siblings")
            with ui.tab_panels(tabs, value=self.tab).classes("w-full").props("keep-alive"):
                with ui.tab_panel("turn").classes("q-pa-none"):
                    self._texts(node, heat, raw)
                with ui.tab_panel("siblings").classes("q-pa-none"):
                    OtherTurns(node, others, self)

    def _remember(self, tab: str) -> None:
        self.tab = tab

    def _numbers(self, node: Mapping[str, Any]) -> None:
        with ui.element("div").classes("number-grid"):
            for name, value in numbers(node).items():
                with ui.element("div"):
                    ui.label(name)
                    block(tag("b", "", value))
        trajectories = self.record.get("trajectories") or []
        extra = next((each.get("reward_extra") for each in trajectories if each.get("leaf") == node["index"]), None)
        if extra:
            words = "  ".join(f"{key} {value}" for key, value in extra.items())
            ui.label(visible(words)).classes("faint").props("data-part=reward-extra")

    def _words(self, node: Mapping[str, Any]) -> None:
        explained = [("functions", "explained", each) for each in explain(self.record, node, self.contexts)]
        why = [("call_split", "why", each) for each in reasons(self.record, node)]
        for icon, part, words in [*explained, *why]:
            with ui.row().classes("items-start no-wrap").style("gap: 6px"):
                ui.icon(icon, size="16px", color="primary")
                ui.label(visible(words)).classes("text-caption").props(f"data-part={part}")

    def _texts(self, node: Mapping[str, Any], heat: bool, raw: bool) -> None:
        if node.get("observation"):
            ui.label("observed").classes("label")
            with ui.element("div").classes("seen"):
                block(text_block(node["observation"], self.template, raw=raw)).props("data-part=observed")
        for call in node.get("tool_calls") or []:
            if call.get("error"):
                words = f"raised {call['error']}"
            elif call.get("made") is False:
                words = "over the limit of calls"
            else:
                continue
            ui.label(visible(f"tool {call.get('name')}: {words}")).classes("text-negative text-caption")
        ui.label("sampled").classes("label")
        hot = heat_block(node) if heat else None
        if heat and hot is None:
            ui.label("The dump holds no NLL per token of this turn.").classes("faint")
        shown = hot or text_block(node.get("text", ""), self.template, raw=raw)
        block(shown).props("data-part=sampled")


class OtherTurns:
    """The other turns that were sampled in the same context, one of them beside the selected one.

    Args:
        node: the selected turn.
        others: other turns, those of the same node first.
        panel: shows a turn that the user goes to.
    """

    def __init__(self, node: Mapping[str, Any], others: list[Mapping[str, Any]], panel: TurnPanel) -> None:
        self.node, self.panel = node, panel
        if not others:
            ui.label("No other turn was sampled in this context.").classes("faint")
            return
        self.by_index = {each["index"]: each for each in others}
        shade = scale_of(panel.record, ColorBy.VALUE).shade
        elsewhere = False
        for each in others:
            if each["parent"] != node["parent"] and not elsewhere:
                elsewhere = True
                ui.label("after equal turns of other trajectories").classes("label").props("data-part=elsewhere")
            words = shorten(headline(without_template(each["text"], panel.template)), 46)
            row = ui.row().classes("items-center no-wrap w-full cursor-pointer").style("gap: 8px")
            with row.on("click", lambda each=each: self._compare(each["index"])).props(
                f"data-part=sibling-{each['index']}"
            ):
                block(dot(shade(each).edge))
                mark = "= " if each["index"] in panel.equal.get(node["index"], []) else ""
                ui.label(mark + words).classes("grow text-caption")
                value = ui.label(f"V {_value(each)}").classes("text-caption text-weight-bold")
                value.style("white-space: nowrap")
                go = ui.button(icon="arrow_forward", on_click=lambda each=each: panel.select(each["index"]))
                go.props("flat dense size=xs")
        self.area = ui.element("div").classes("w-full").props("data-part=diff")
        furthest = max(others, key=lambda each: abs((each.get("value") or 0) - (node.get("value") or 0)))
        self._compare(furthest["index"])

    def _compare(self, index: int) -> None:
        other = self.by_index[index]
        template = self.panel.template
        one, two = diff_blocks(without_template(self.node["text"], template), without_template(other["text"], template))
        self.area.clear()
        with self.area:
            for node, content in ((self.node, one), (other, two)):
                ui.label(f"node {node['index']}, value {_value(node)}").classes("label")
                block(content)


def numbers(node: Mapping[str, Any]) -> dict[str, str]:
    """List the numbers that the dump has of a turn, by name, as they are shown."""
    shown = {
        "advantage": _with(signed, node.get("advantage")), "value": _plain(node.get("value")),
        "NLL": _plain(node.get("mean_nll")), "tokens": _plain(node.get("tokens")),
        "reward": _plain(node.get("reward")), "tool reward": _plain(node.get("tool_reward")),
        "information gain": _with(signed, node.get("information_gain")), "round": _plain(node.get("round")),
        "generation": _seconds(node.get("generation_s")), "tools": _seconds(node.get("tool_s")),
    }  # fmt: skip
    return {name: value for name, value in shown.items() if value is not None}


def _value(node: Mapping[str, Any]) -> str:
    return _plain(node.get("value")) or "?"


def _plain(value: float | None) -> str | None:
    return None if value is None else f"{value + 0.0:.3g}" if isinstance(value, float) else str(value)


def _with(form: Callable[[float], str], value: float | None) -> str | None:
    return None if value is None else form(value)


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{decimal(value)} s"
