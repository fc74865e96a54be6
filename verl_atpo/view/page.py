"""Layout of all pages: style, header, keys, and the one function that puts markup onto a page."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from markupsafe import Markup
from nicegui import ui

from verl_atpo.render.text import visible
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
TOGGLE = "dense no-caps unelevated padding='2px 10px' toggle-color=primary"
GRID = "width: 100%; display: grid; grid-template-columns: repeat(auto-fit, minmax({}px, 1fr)); gap: 14px"


def frame(run: Run, title: str) -> None:
    """Begin a page: its title, style and header."""
    ui.add_css(STYLE)
    ui.colors(primary=ACCENT)
    ui.dark_mode(None)  # as the browser says
    ui.page_title(f"{title} · {run.name}")
    with ui.header().classes("items-center q-py-xs").style("background: #0f172a; gap: 18px"):
        ui.link("verl_atpo", "/").classes("text-white text-weight-bold no-underline text-lg")
        ui.label(run.name).classes("text-white").tooltip(str(run.folder))
        live = ui.label().classes("text-grey-5 text-caption").props("data-part=progress")
        skipped = ui.label().classes("text-orange-4 text-caption").props("data-part=skipped")
        trouble = ui.label().classes("text-orange-4 text-caption").props("data-part=index-trouble")
        ui.space()
        ui.link("runs", "/compare").classes("text-grey-4 no-underline text-caption")
        ui.link("validation", "/validation").classes("text-grey-4 no-underline text-caption")
        ui.button("keys", icon="keyboard", on_click=show_keys).props("flat dense no-caps size=sm color=grey-4")

    def refresh() -> None:
        live.text, skipped.text, trouble.text = progress_words(run)

    refresh()
    ui.timer(REFRESH_S, refresh, immediate=False)


def progress_words(run: Run) -> tuple[str, str, str]:
    """Show the index's progress, the lines it skipped and its trouble."""
    trouble = run.trouble()
    hindered = f"The index does not follow the run: {visible(trouble)[:300]}" if trouble else ""
    try:
        progress = run.index.progress()
    except (sqlite3.Error, OSError) as error:
        return "", "", f"The index cannot be read: {error}"
    words = f"{progress.trees:,} trees"
    if progress.last_step is not None:
        words += f", up to step {progress.last_step}"
    if progress.worded < progress.trees:
        words += f" · texts indexed: {progress.worded / progress.trees:.0%}"
    skipped = ""
    if progress.skipped:
        lines = "1 line holds" if progress.skipped == 1 else f"{progress.skipped:,} lines hold"
        skipped = f"{lines} no tree; the first: {visible(progress.reason)[:160]}"
    return words, skipped, hindered


def show_keys() -> None:
    """Open a dialog with all keys."""
    with ui.dialog(value=True), ui.card():
        for keys, what in KEYS.items():
            with ui.row().classes("items-center"):
                for key in keys.split():
                    block(Markup("<kbd>{}</kbd>").format(key))
                ui.label(what)


def facts(pairs: dict[str, Any]) -> None:
    """Show a line of ``name value`` pairs; those whose value is None are left out."""
    with ui.element("div").classes("facts"):
        for name, value in pairs.items():
            if value is not None:
                with ui.element("span"):
                    ui.label(f"{name} ").classes("inline")
                    ui.label(str(value)).classes("inline text-weight-bold")


def block(content: Markup, *classes: str) -> Block:
    """Show markup. This is the only way in which any comes onto a page.

    Args:
        content: made by ``render/``, which escapes what it is given.
        classes: CSS classes.

    Raises:
        TypeError: a plain text, which may not be escaped.
    """
    made = Block(content)
    made.classes(" ".join(classes))
    return made


class Block(ui.html):
    """An element that shows markup, and refuses plain text."""

    def __init__(self, content: Markup) -> None:
        super().__init__(_checked(content), sanitize=False)

    def show(self, content: Markup) -> None:
        """Show other markup.

        Raises:
            TypeError: a plain text.
        """
        self.content = _checked(content)


def _checked(content: Markup) -> str:
    if not isinstance(content, Markup):
        raise TypeError(f"{type(content).__name__} is not escaped: only Markup is shown.")
    return str(content)
