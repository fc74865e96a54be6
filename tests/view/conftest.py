"""A made-up run, a viewer of it in a process of its own, and a headless Chromium to look with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.assets.browser import CHROMIUM, DRIVER, MISSING, browser, viewer
from tests.assets.viewer import Viewer
from verl_atpo.view.demo import write_demo


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up run of 80 trees; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, 80)
    return folder


@pytest.fixture(scope="session")
def open_viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Viewer]]:
    """Starts viewers, and ends them with the session."""
    with contextlib.ExitStack() as running:

        def start(folder: Path, *arguments: str) -> Viewer:
            address, _ = running.enter_context(viewer(folder, tmp_path_factory.mktemp("cache"), *arguments))
            return Viewer(address, folder)

        yield start


@pytest.fixture(scope="session")
def demo_viewer(open_viewer: Callable[..., Viewer], demo_folder: Path) -> Viewer:
    """A viewer of the made-up run."""
    return open_viewer(demo_folder)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Headless Chromium under selenium."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip(MISSING)
    with browser() as driver:
        yield driver
