"""The page of validation trajectories: one step's, as a table, and one of them in full."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup
from nicegui import run as in_thread
from nicegui import ui

from verl_atpo.render.markup import tag, text_block
from verl_atpo.render.text import decimal, headline, shorten, visible, without_template
from verl_atpo.view.page import block, facts, frame
from verl_atpo.view.run import Run
from verl_atpo.view.validation import Trajectory, read_trajectories, validation_files

COLUMNS = {"number": "number", "score": "score", "prompt": "prompt", "response": "last words", "truth": "right answer"}
HINT = "No validation trajectories in this folder: verl writes them with trainer.validation_data_dir=FOLDER/validation."


class ValidationPage:
    """One visitor's view of the validation trajectories.

    Args:
        run: that is looked at.
        files: by step, at least one.
    """

    def __init__(self, run: Run, files: dict[int, Path]) -> None:
        self.files = files
        self.found: list[Trajectory] = []
        with ui.element("div").classes("panel column").style("gap: 10px"):
            with ui.row().classes("items-center").style("gap: 12px"):
                ui.label("Validation trajectories").classes("text-h6")
                steps = {step: f"step {step}" for step in files}
                chooser = ui.select(steps, value=max(files), on_change=lambda e: self.show(e.value))
                chooser.props("dense outlined data-part=validation-step")
                self.facts = ui.label().classes("faint").props("data-part=validation-facts")
            columns = [{"name": name, "label": label, "field": name, "align": "left", "sortable": True}
                       for name, label in COLUMNS.items()]  # fmt: skip
            self.table = ui.table(columns=columns, rows=[], row_key="number", pagination=15)
            self.table.props("flat dense data-part=validation").classes("tree-table w-full")
            self.table.on("rowClick", lambda event: self._open(event.args[1]))
        self.area = ui.element("div").props("data-part=validation-trajectory")

    async def show(self, step: int) -> None:
        """Show a step."""
        self.found = await in_thread.io_bound(lambda: list(read_trajectories(self.files[step]))) or []
        scores = [each.score for each in self.found if each.score is not None]
        mean = f", mean score {decimal(sum(scores) / len(scores), 3)}" if scores else ""
        self.facts.text = f"{len(self.found):,} trajectories{mean}"
        self.table.rows = [
            {
                "number": each.number,
                "score": None if each.score is None else round(each.score, 4),
                "prompt": shorten(_line(each.prompt[-2000:]), 90),
                "response": shorten(_end(each.response), 90),
                "truth": shorten(_line(each.truth), 40),
            }
            for each in self.found
        ]
        self.table.update()
        self.area.clear()

    def _open(self, row: object) -> None:
        number = row.get("number") if isinstance(row, dict) else None
        chosen = next((each for each in self.found if each.number == number), None)
        self.area.clear()
        if chosen is None:
            return
        with self.area, ui.element("div").classes("panel"):
            extra = {visible(name)[:60]: visible(str(value))[:200] for name, value in chosen.extra.items()}
            facts({"score": chosen.score, "right answer": visible(chosen.truth)[:500] or None, **extra})
            for title, text in (("prompt", chosen.prompt), ("response", chosen.response)):
                block(tag("div", "label", title))
                block(text_block(text, []) if text else Markup())


async def validation_page(run: Run) -> None:
    """Show the page of validation trajectories."""
    frame(run, "validation")
    files = await in_thread.io_bound(validation_files, run.folder) or {}
    if not files:
        ui.label(HINT).classes("text-h6").props("data-part=no-validation")
        return
    await ValidationPage(run, files).show(max(files))


def _end(response: str) -> str:
    """Cut out the policy's last words: the text after the last answer of a tool."""
    return headline(without_template(response[-4000:].rsplit("</tool_response>", 1)[-1], []))


def _line(text: str) -> str:
    return visible(" ".join(without_template(text, []).split()))
