"""The viewer's server: the pages and exports of one run."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from fastapi import HTTPException, Request, Response
from nicegui import app, ui

from verl_atpo.render import export
from verl_atpo.render.colors import ColorBy
from verl_atpo.render.text import visible
from verl_atpo.report.dump_reader import OddLine
from verl_atpo.report.record import Record, short_hash
from verl_atpo.view.access import Access, PagePolicy
from verl_atpo.view.compare_page import compare_page
from verl_atpo.view.filters import Filters
from verl_atpo.view.overview import Overview
from verl_atpo.view.page import frame
from verl_atpo.view.prompt_page import prompt_page
from verl_atpo.view.run import Run
from verl_atpo.view.tree_page import TreePage
from verl_atpo.view.validation_page import validation_page

EXPORTS: dict[str, Callable[[Record, ColorBy], str | bytes]] = {
    "html": export.to_html,
    "svg": export.to_svg,
    "png": export.to_png,
}
MEDIA = {"html": "text/html; charset=utf-8", "svg": "image/svg+xml", "png": "image/png"}


def serve(run: Run, host: str, port: int, token: str | None, show: bool) -> None:
    """Serve a run until the process is interrupted.

    Args:
        run: that is looked at.
        host: address to listen at.
        port: port to listen at.
        token: that a visitor has to bring, ``None`` for none.
        show: open a browser.
    """
    _pages(run)
    _exports(run)
    app.add_middleware(PagePolicy)
    app.add_middleware(Access, token=token)
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
    """Read the tree of a uid; ``None``: there is none.

    Raises:
        OSError, OddLine: there is one, but it cannot be read.
    """
    row = run.index.by_uid(uid)
    return None if row is None else run.index.record(row)


def _pages(run: Run) -> None:
    @ui.page("/")
    def overview(request: Request) -> None:
        Overview(run, Filters.from_query(request.query_params))

    @ui.page("/tree/{uid:path}")
    def tree(uid: str, request: Request) -> None:
        why = "is not in this run (yet)"
        try:
            record = find(run, uid)
        except (OSError, OddLine) as error:
            record, why = None, f"cannot be shown: {error}"
        if record is None:
            frame(run, "no such tree")
            ui.label(f"Tree {visible(uid)[:200]} {visible(why)[:300]}.").classes("text-h6")
            ui.link("all trees", "/")
            return
        TreePage(run, record, request.query_params)

    @ui.page("/prompt/{key}")
    def prompt(key: str) -> None:
        prompt_page(run, key)

    @ui.page("/compare")
    def compare(request: Request) -> None:
        compare_page(run, request.query_params)

    @ui.page("/validation")
    async def validation() -> None:
        await validation_page(run)


def _exports(run: Run) -> None:
    @app.get("/export/{suffix}/{uid:path}")
    def download(suffix: str, uid: str, by: str = ColorBy.ADVANTAGE.value) -> Response:
        try:
            record = find(run, uid)
        except (OSError, OddLine) as error:
            raise HTTPException(410, f"the tree cannot be read: {error}") from None
        if record is None or suffix not in MEDIA:
            raise HTTPException(404, "no such tree, or no such kind of file")
        color = ColorBy(by) if by in set(ColorBy) else ColorBy.ADVANTAGE
        made = EXPORTS[suffix](record, color)
        name = f"tree-step{record['global_step']}-{short_hash(uid)[:8]}.{suffix}"
        headers = {
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
        }
        return Response(made, media_type=MEDIA[suffix], headers=headers)
