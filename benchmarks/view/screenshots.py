"""The documentation's pictures of the viewer, taken with headless Chromium: `python -m benchmarks.view.screenshots`.

They show the made-up run of ``python -m verl_atpo.view --demo``, so they are the same wherever they are taken.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.view.load import count_lines
from tests.assets.browser import browser, viewer, wait_until
from verl_atpo.report.dump_reader import read_trees
from verl_atpo.report.record import Record
from verl_atpo.view.demo import write_demo
from verl_atpo.view.index import TreeIndex

PICTURES = Path(__file__).parents[2] / "docs" / "viewer"
CLICK = "document.querySelector(arguments[0]).dispatchEvent(new MouseEvent('click', {bubbles: true}))"
CONNECTED = "return window.did_handshake === true"
SCROLL = "const at = document.querySelector(arguments[0]).getBoundingClientRect().top; window.scrollBy(0, at - 150)"
COUNT = "return document.querySelectorAll(arguments[0]).length"


@dataclasses.dataclass(frozen=True)
class Shot:
    """One picture.

    Attributes:
        name: of its file.
        path: of the page.
        height: of the window.
        clicks: what is clicked first, by CSS selector.
        there: what must be on the page.
        scroll: what is scrolled to, by CSS selector.
    """

    name: str
    path: str
    height: int
    clicks: tuple[str, ...] = ()
    there: str = "header"
    scroll: str = ""


def shots(tree: Record) -> list[Shot]:
    """Take all pictures; ``tree`` is the tree that they show."""
    page = f"/tree/{tree['uid']}"
    values = {node["index"]: node["value"] or 0.0 for node in tree["nodes"]}
    siblings = Counter(node["parent"] for node in tree["nodes"])
    inner = [node for node in tree["nodes"] if node["parent"] and siblings[node["parent"]] > 1]
    lost = min(inner, key=lambda node: values[node["index"]] - values[node["parent"]])
    selected = f"{page}?node={lost['index']}"
    return [
        Shot("overview", "/", 1100, there=".tree-table tbody tr"),
        Shot(
            "selections",
            "/",
            760,
            ("[data-part=selections] .q-item",),
            "[data-part=bars] canvas",
            "[data-part=selections]",
        ),
        Shot("tree", selected, 1000, there="[data-part=selected]"),
        Shot("siblings", selected, 1200, ("[data-part=siblings]",), "[data-part=diff] pre"),
        Shot("folded", f"{selected}&heat=1", 900, ("[data-part=fold-settled]",), "[data-fold]"),
        Shot("transcript", selected, 1000, there="[data-part=transcript] .event", scroll="[data-part=transcript-of]"),
        Shot("prompt", f"/prompt/{tree['summary']['prompt_key']}", 1300, there="[data-part=stamp]"),
        Shot(
            "validation",
            "/validation",
            800,
            ("[data-part=validation] tbody tr",),
            "[data-part=validation-trajectory] pre",
        ),
    ]


def take(driver: Any, address: str, shot: Shot, folder: Path) -> None:
    """Open a page, wait until it is there, and write its picture."""
    driver.set_window_size(1500, shot.height)
    driver.get(address + shot.path)
    wait_until(lambda: driver.execute_script(CONNECTED))
    for selector in shot.clicks:
        driver.execute_script(CLICK, selector)
    wait_until(lambda: driver.execute_script(COUNT, shot.there))
    if shot.scroll:
        driver.execute_script(SCROLL, shot.scroll)
    _settle(driver)
    path = folder / f"{shot.name}.png"
    driver.save_screenshot(str(path))
    with Image.open(path) as picture:  # a palette keeps the repository small
        picture.convert("RGB").quantize(192, dither=Image.Dither.NONE).save(path, optimize=True)


def _settle(driver: Any) -> None:
    """Until two pictures in a row are the same: transitions are over."""
    before: list[str] = [""]

    def same() -> bool:
        now = driver.get_screenshot_as_base64()
        last, before[0] = before[0], now
        return bool(now == last)

    wait_until(same)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURES)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "demo"
        write_demo(folder)
        mixed = [tree for tree in read_trees(folder) if tree["summary"]["outcome"] == "mixed"]
        tree = max(mixed, key=lambda each: (0.3 < (each["summary"]["reward"] or 0) < 0.8, each["global_step"]))
        with browser() as driver, viewer(folder, Path(made) / "cache") as (address, _):
            index = TreeIndex(folder, Path(made) / "cache")
            wait_until(lambda: index.progress().worded == count_lines(folder))
            for shot in shots(tree):
                take(driver, address, shot, out)
        _two_runs(Path(made), out)


def _two_runs(made: Path, out: Path) -> None:
    """Picture of two runs side by side: made-up ones, of which the later one started from another seed."""
    folder = made / "runs"
    for name, seed in (("first", 0), ("second", 9)):
        write_demo(folder / name, 96, seed=seed)
    with browser() as driver, viewer(folder, made / "caches") as (address, _):
        index = TreeIndex(folder, made / "caches")
        wait_until(lambda: index.progress().worded == count_lines(folder))
        take(driver, address, Shot("compare", "/compare", 1000, there="[data-part=tasks] tbody tr"), out)


if __name__ == "__main__":
    main()
