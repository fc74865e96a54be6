"""What all pages have in common: style, header, keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nicegui import ui

from verl_atpo.view.run import Run

STYLE = Path(__file__).parent / "static" / "view.css"
ACCENT = "#0f766e"
KEYS = {
    "/": "search",
    "j k": "next, previous tree",
    "m": "next mixed tree",
    "arrows": "to another turn",
    "f": "fold or unfold the turn",
    "u": "unfold everything",
    "h": "heat map of token NLL",
    "o": "overview",
    "?": "these keys",
}
REFRESH_S = 1.0
TOGGLE = "dense no-caps unelevated padding='2px 10px' toggle-color=primary color=grey-3 text-color=grey-8"


def frame(run: Run, title: str) -> None:
    """Title, style and header of a page."""
    ui.add_css(STYLE)
    ui.colors(primary=ACCENT)
    ui.page_title(f"{title} · {run.name}")
    with ui.header().classes("items-center q-py-xs").style("background: #0f172a; gap: 18px"):
        ui.link("verl_atpo", "/").classes("text-white text-weight-bold no-underline text-lg")
        ui.label(run.name).classes("text-white").tooltip(str(run.folder))
        live = ui.label().classes("text-grey-5 text-caption").props("data-part=progress")
        ui.space()
        ui.button("keys", icon="keyboard", on_click=show_keys).props("flat dense no-caps size=sm color=grey-4")

    def refresh() -> None:
        progress = run.index.progress()
        words = f"{progress.trees:,} trees"
        if progress.last_step is not None:
            words += f", up to step {progress.last_step}"
        if progress.worded < progress.trees:
            words += f" · texts indexed: {progress.worded / progress.trees:.0%}"
        live.text = words

    refresh()
    ui.timer(REFRESH_S, refresh, immediate=False)


def show_keys() -> None:
    """A dialog with all keys."""
    with ui.dialog(value=True), ui.card():
        for keys, what in KEYS.items():
            with ui.row().classes("items-center"):
                for key in keys.split():
                    ui.html(f"<kbd>{key}</kbd>", sanitize=False)
                ui.label(what)


def facts(pairs: dict[str, Any]) -> None:
    """A line of ``name value`` pairs; those whose value is None are left out."""
    with ui.element("div").classes("facts"):
        for name, value in pairs.items():
            if value is not None:
                with ui.element("span"):
                    ui.label(f"{name} ").classes("inline")
                    ui.label(str(value)).classes("inline text-weight-bold text-black")


def block(content: str, *classes: str) -> ui.html:
    """HTML made by ``blocks.py`` or ``svg.py``, which escape what they are given."""
    return ui.html(content, sanitize=False).classes(" ".join(classes))
