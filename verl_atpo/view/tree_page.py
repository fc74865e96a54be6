"""The page of one tree: its picture, the selected turn beside it, and tabs with the details below."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from markupsafe import Markup
from nicegui import ui

from verl_atpo.render.colors import ColorBy
from verl_atpo.render.explanation import prompt_value
from verl_atpo.render.layout import ROOT, children_of, lay_out, neighbour
from verl_atpo.render.markup import tag, text_block
from verl_atpo.render.picture import draw_tree
from verl_atpo.render.text import decimal, visible
from verl_atpo.report.record import Record
from verl_atpo.view.details import Details
from verl_atpo.view.filters import Filters
from verl_atpo.view.page import TOGGLE, block, facts, frame, show_keys
from verl_atpo.view.run import Run
from verl_atpo.view.turn_panel import TurnPanel

CLICK = """(event) => {
    const fold = event.target.closest("[data-fold]"), turn = event.target.closest("[data-node]");
    if (fold) emit("fold", Number(fold.dataset.fold)); else if (turn) emit("node", Number(turn.dataset.node));
}"""
NAMES = {ColorBy.ADVANTAGE: "advantage", ColorBy.VALUE: "value", ColorBy.NLL: "NLL"}


@dataclasses.dataclass
class ViewState:
    """State of a page, which its address holds, so that a link opens it the same way again.

    Attributes:
        node: the selected turn.
        by: number that colours show.
        folded: nodes whose children are hidden.
        heat: token NLLs as a heat map.
        raw: texts with the chat template.
    """

    node: int
    by: ColorBy = ColorBy.ADVANTAGE
    folded: set[int] = dataclasses.field(default_factory=set)
    heat: bool = False
    raw: bool = False

    @classmethod
    def from_query(cls, query: Mapping[str, str], nodes: set[int]) -> ViewState:
        """Read the state of an address; what the tree does not have is left out."""
        numbers = [int(each) for each in query.get("fold", "").split(",") if _is_number(each)]
        node = query.get("node", "")
        by = query.get("by", "")
        return cls(
            node=int(node) if _is_number(node) and int(node) in nodes else min(nodes - {ROOT}, default=ROOT),
            by=ColorBy(by) if by in set(ColorBy) else ColorBy.ADVANTAGE,
            folded={number for number in numbers if number in nodes},
            heat=query.get("heat") == "1",
            raw=query.get("raw") == "1",
        )

    def to_query(self) -> dict[str, str]:
        """Write what :meth:`from_query` reads."""
        query = {"node": str(self.node)}
        if self.by is not ColorBy.ADVANTAGE:
            query["by"] = self.by.value
        if self.folded:
            query["fold"] = ",".join(map(str, sorted(self.folded)))
        return {**query, **{name: "1" for name in ("heat", "raw") if getattr(self, name)}}


class TreePage:
    """One visitor's view of one tree.

    Args:
        run: that is looked at.
        record: the tree.
        query: query of the address.
    """

    def __init__(self, run: Run, record: Record, query: Mapping[str, str]) -> None:
        self.run, self.record = run, record
        self.filters = Filters.from_query(query)
        self.nodes = {node["index"]: node for node in record.get("nodes") or []}
        self.state = ViewState.from_query(query, {ROOT, *self.nodes})
        frame(run, f"step {record['global_step']}")
        self._head()
        with ui.element("div").style(
            "display: grid; grid-template-columns: minmax(0, 1fr) minmax(380px, 27%); gap: 14px"
        ):
            with ui.element("div").classes("panel"):
                self._tools()
                self.picture = block(Markup(), "picture fit")
                self.picture.on("click", self._clicked, js_handler=CLICK).props("data-part=picture")
            with ui.element("div").classes("panel").style("position: sticky; top: 64px; align-self: start"):
                self.panel = TurnPanel(record, self.select)
        self.details = Details(record, self.state.node)
        self.draw()
        ui.keyboard(on_key=self._key)

    def _head(self) -> None:
        record, summary = self.record, self.record["summary"]
        with ui.element("div").classes("panel column").style("gap: 6px"):
            with ui.row().classes("items-center").style("gap: 10px"):
                ui.label(f"Step {record['global_step']}").classes("text-h6")
                block(tag("span", f"badge {summary['outcome']}", summary["outcome"]))
                counts: Mapping[str, Any] = summary
                for name, words in (("tool_errors", "tool errors"), ("outages", "outages"), ("diverged", "diverged"),
                                    ("regrown", "grown again")):  # fmt: skip
                    if counts.get(name):
                        block(tag("span", "badge trouble", f"{counts[name]} {words}"))
                ui.space()
                self._moves()
            block(text_block(record.get("prompt", ""), record.get("template") or []), "prompt")
            if record.get("failed"):
                ui.label(f"failed as a group: {visible(str(record['failed']))}").classes("text-negative").props(
                    "data-part=failed"
                )
            known = {
                "right answer": visible(str(record.get("ground_truth")))[:500], "mean reward": _two(summary["reward"]),
                "leaves": summary["leaves"], "turns": summary["nodes"], "depth": summary["depth"],
                "sampled tokens": f"{summary['sampled_tokens']:,}",
                "saved": None if summary["saved"] is None else f"{summary['saved']:.0%}",
                "seconds": _two(summary.get("seconds")), "data": _shown(record.get("data_source")),
                "run": _shown(record.get("start")), "uid": _shown(record["uid"]),
            }  # fmt: skip
            facts(known)
            if words := prompt_value(record):
                ui.label(words).classes("faint").props("data-part=prompt-value")

    def _moves(self) -> None:
        query = self.filters.to_query()
        ui.link("this task over time", f"/prompt/{self.record['summary']['prompt_key']}").props("data-part=over-time")
        with ui.button_group().props("flat"):
            ui.button(icon="chevron_left", on_click=lambda: self.go(-1)).props("flat dense").tooltip("k")
            ui.button(icon="chevron_right", on_click=lambda: self.go(1)).props("flat dense").tooltip("j").props(
                "data-part=next"
            )
        ui.button("mixed", icon="shuffle", on_click=lambda: self.go(1, mixed=True)).props("flat dense no-caps")
        with ui.button("export", icon="download").props("flat dense no-caps").props("data-part=export"), ui.menu():
            for suffix, what in (("html", "HTML page, self-contained"), ("svg", "SVG picture"), ("png", "PNG picture")):
                ui.menu_item(what, lambda suffix=suffix: ui.navigate.to(self._export(suffix)))
        ui.link("table", f"/?{query}" if query else "/")

    def _export(self, suffix: str) -> str:
        return f"/export/{suffix}/{quote(self.record['uid'], safe='')}?by={self.state.by.value}"

    def _tools(self) -> None:
        state, small = self.state, "flat dense no-caps size=sm"
        with ui.row().classes("items-center").style("gap: 12px"):
            colors = ui.toggle({by.value: NAMES[by] for by in ColorBy}, value=state.by.value)
            colors.props(f"{TOGGLE} data-part=by").on_value_change(lambda e: self._set(by=ColorBy(e.value)))
            self.heat = ui.switch("token NLL", value=state.heat, on_change=lambda e: self._set(heat=e.value))
            self.heat.props("dense data-part=heat")
            ui.switch("chat template", value=state.raw, on_change=lambda e: self._set(raw=e.value)).props("dense")
            ui.switch("fit width", value=True, on_change=lambda e: self.picture.classes(toggle="fit")).props("dense")
            fold = ui.button("fold equal subtrees", icon="unfold_less", on_click=self.fold_settled)
            fold.props(f"{small} data-part=fold-settled")
            ui.button("unfold all", icon="unfold_more", on_click=self.unfold).props(f"{small} data-part=unfold")

    def draw(self) -> None:
        """Show the state, and put it into the address."""
        state = self.state
        self.picture.show(draw_tree(self.record, folded=state.folded, by=state.by, selected=state.node, folds=True))
        self.panel.show(state.node, heat=state.heat, raw=state.raw)
        query = {**dict(parse_qsl(self.filters.to_query())), **state.to_query()}
        ui.navigate.history.replace(f"/tree/{quote(self.record['uid'], safe='')}?{urlencode(query)}")

    def _set(self, **changes: Any) -> None:
        self.state = dataclasses.replace(self.state, **changes)
        self.draw()

    def select(self, node: int) -> None:
        """Look at a turn."""
        self._set(node=node)
        self.details.select(node)

    def fold(self, node: int) -> None:
        """Hide what is below a node, or show it again."""
        self._set(folded=self.state.folded ^ {node})

    def unfold(self) -> None:
        """Show everything."""
        self._set(folded=set())

    def fold_settled(self) -> None:
        """Fold every subtree whose leaves all got the same reward: nothing is decided below it."""
        self._set(folded=settled(self.record))

    def _clicked(self, event: Any) -> None:
        what, node = event.args if isinstance(event.args, list) and len(event.args) == 2 else ("", None)
        if node in self.nodes or node == ROOT:
            self.fold(node) if what == "fold" else self.select(node)

    def go(self, by: int, mixed: bool = False) -> None:
        """Go to the next tree of the table (``by`` 1) or the one before (-1)."""
        filters = dataclasses.replace(self.filters, outcome="mixed") if mixed else self.filters
        uid = next_uid(self.run.index.uids(self.filters), set(self.run.index.uids(filters)), self.record["uid"], by)
        if uid is None:
            ui.notify("no further tree")
            return
        query = self.filters.to_query()
        ui.navigate.to(f"/tree/{quote(uid, safe='')}" + (f"?{query}" if query else ""))

    def _key(self, event: Any) -> None:
        if not event.action.keydown or event.modifiers.ctrl or event.modifiers.meta or event.modifiers.alt:
            return
        key = event.key.name
        actions = {
            "j": lambda: self.go(1), "k": lambda: self.go(-1), "m": lambda: self.go(1, mixed=True), "?": show_keys,
            "f": lambda: self.fold(self.state.node), "u": self.unfold, "o": lambda: ui.navigate.to("/"),
            "/": lambda: ui.navigate.to("/?focus=search"),
            "h": lambda: self.heat.set_value(not self.heat.value),
        }  # fmt: skip
        if key.startswith("Arrow"):
            layout = lay_out(list(self.nodes.values()), self.state.folded)
            self.select(neighbour(layout, self.state.node, key.removeprefix("Arrow").lower()))
        elif key in actions:
            actions[key]()


def settled(record: Mapping[str, Any]) -> set[int]:
    """Find the nodes below which all leaves got one reward, and whose parent has leaves of several."""
    nodes = {node["index"]: node for node in record["nodes"]}
    children = children_of(record["nodes"])
    rewards: dict[int, set[Any]] = {}
    for index in sorted(nodes, reverse=True):
        own = {nodes[index].get("reward")} if nodes[index].get("is_leaf") else set()
        rewards[index] = own.union(*(rewards[child] for child in children.get(index, ())))
    return {
        index
        for index, node in nodes.items()
        if children.get(index) and len(rewards[index]) == 1 and len(rewards.get(node["parent"], (0, 1))) > 1
    }


def next_uid(order: list[str], allowed: set[str], uid: str, by: int) -> str | None:
    """Find the nearest allowed name after (``by`` 1) or before (-1) ``uid``; from the top if ``uid`` is not there."""
    at = order.index(uid) if uid in order else (-1 if by > 0 else len(order))
    ahead = order[at + 1 :] if by > 0 else order[:at][::-1] if at > 0 else []
    return next((each for each in ahead if each in allowed), None)


def _two(value: float | None) -> str | None:
    return None if value is None else decimal(value)


def _shown(text: str | None) -> str | None:
    return None if text is None else visible(text)[:200]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16
