"""The viewer's server: pages and exports of one run."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from fastapi import HTTPException, Request, Response
from nicegui import app, ui

from verl_atpo.report.record import Record, short_hash, summarize
from verl_atpo.view import export
from verl_atpo.view.colors import ColorBy
from verl_atpo.view.filters import Filters
from verl_atpo.view.frame import frame
from verl_atpo.view.gate import Gate
from verl_atpo.view.overview import Overview
from verl_atpo.view.prompt_page import prompt_page
from verl_atpo.view.run import Run
from verl_atpo.view.tree_page import TreePage

EXPORTS: dict[str, Callable[[Record, ColorBy], str | bytes]] = {
    "html": export.to_html,
    "svg": export.to_svg,
    "png": export.to_png,
}
MEDIA = {"html": "text/html; charset=utf-8", "svg": "image/svg+xml", "png": "image/png"}


def serve(run: Run, host: str, port: int, token: str | None, show: bool) -> None:
    """Serve a run until the process is interrupted.

    Args:
        run: what is looked at.
        host: address to listen at.
        port: port to listen at.
        token: what a visitor has to bring, ``None`` for none.
        show: open a browser.
    """
    _pages(run)
    _exports(run)
    app.add_middleware(Gate, token=token)
    app.on_startup(run.start)
    app.on_shutdown(run.stop)
    ui.run(
        host=host,
        port=port,
        title="verl_atpo",
        favicon="🌳",
        reload=False,
        show=f"/?token={token}" if show and token else show,
        show_welcome_message=False,
        reconnect_timeout=10,
    )


def find(run: Run, uid: str) -> Record | None:
    """The tree of that uid, its summary made if the dump is an old one; ``None``: there is none."""
    row = run.index.by_uid(uid)
    if row is None:
        return None
    record = run.index.record(row)
    if "summary" not in record:
        record["summary"] = summarize(record)
    return record


def _pages(run: Run) -> None:
    @ui.page("/")
    def overview(request: Request) -> None:
        Overview(run, Filters.from_query(request.query_params))

    @ui.page("/tree/{uid:path}")
    def tree(uid: str, request: Request) -> None:
        record = find(run, uid)
        if record is None:
            frame(run, "no such tree")
            ui.label(f"No tree {uid} is in this run (yet).").classes("text-h6")
            ui.link("all trees", "/")
            return
        TreePage(run, record, request.query_params)

    @ui.page("/prompt/{key}")
    def prompt(key: str) -> None:
        prompt_page(run, key)


def _exports(run: Run) -> None:
    @app.get("/export/{suffix}/{uid:path}")
    def download(suffix: str, uid: str, by: str = ColorBy.ADVANTAGE.value) -> Response:
        record = find(run, uid)
        if record is None or suffix not in MEDIA:
            raise HTTPException(404, "no such tree, or no such kind of file")
        color = ColorBy(by) if by in set(ColorBy) else ColorBy.ADVANTAGE
        made = EXPORTS[suffix](record, color)
        name = f"tree-step{record['global_step']}-{short_hash(uid)[:8]}.{suffix}"
        headers = {
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}",
            "X-Content-Type-Options": "nosniff",
        }
        return Response(made, media_type=MEDIA[suffix], headers=headers)
