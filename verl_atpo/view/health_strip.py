"""The strip above the overview: figures of the run's health with their course, and its alarms."""

from __future__ import annotations

from nicegui import ui

from verl_atpo.render.markup import sparkline
from verl_atpo.render.text import visible
from verl_atpo.view.health import Figure, State, alarms, figures
from verl_atpo.view.page import block
from verl_atpo.view.run import Run, idle_s

COLORS = {State.FINE: "#0d9488", State.ODD: "#d97706", State.BAD: "#d9480f"}


class HealthStrip:
    """One visitor's strip; :meth:`refresh` redraws it if there is news.

    Args:
        run: that is looked at.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._shown: tuple[list[Figure], list[str]] | None = None
        self._area = ui.element("div").classes("health").props("data-part=health")
        self.refresh()

    def refresh(self) -> None:
        """Show the present figures and alarms."""
        metrics = self.run.metrics
        found = figures(metrics.series, metrics.not_finite), alarms(metrics.series, idle_s(self.run))
        if found == self._shown:
            return
        self._shown = found
        self._area.clear()
        with self._area:
            for words in found[1]:
                with ui.row().classes("alarm items-center no-wrap").props("data-part=alarm"):
                    ui.icon("warning", size="18px")
                    ui.label(visible(words)[:300])
            if found[0]:
                with ui.element("div").classes("figures"):
                    for figure in found[0]:
                        self._figure(figure)

    def _figure(self, figure: Figure) -> None:
        with ui.element("div").classes(f"figure {figure.state.value}").props("data-part=figure"):
            ui.label(figure.name).classes("figure-name")
            ui.label(figure.value).classes("figure-value")
            block(sparkline(figure.points, COLORS[figure.state]))
            ui.tooltip(f"{figure.metric}: {figure.words}.")
