"""A made-up run, a viewer of it in a process of its own, and a headless Chromium to look with."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from verl_atpo.view.demo import write_demo

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--window-size=1500,1100",
)  # fmt: skip
START_S = 60.0


@dataclasses.dataclass
class Viewer:
    """A running viewer.

    Attributes:
        address: of its first page, without the slash at the end.
        folder: what it shows.
        process: its process.
    """

    address: str
    folder: Path
    process: subprocess.Popen[str]


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up run of 80 trees; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, 80)
    return folder


@pytest.fixture(scope="session")
def open_viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Viewer]]:
    """Starts viewers, and ends them with the session."""
    started: list[subprocess.Popen[str]] = []

    # NiceGUI looks for pytest in its environment; a user has none.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}

    def start(folder: Path, *arguments: str) -> Viewer:
        cache = tmp_path_factory.mktemp("cache")
        command = [
            sys.executable,
            "-m",
            "verl_atpo.view",
            str(folder),
            "--port",
            "0",
            "--no-browser",
            "--cache",
            str(cache),
        ]
        process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        assert process.stdout is not None
        address = process.stdout.readline().split(": ", 1)[1].split()[0]
        wait_until(lambda: answers(address), START_S)
        return Viewer(address.split("?")[0].rstrip("/"), folder, process)

    yield start
    for process in started:
        process.terminate()
    for process in started:
        process.wait(timeout=30)


def answers(address: str) -> bool:
    """Whether something listens there."""
    try:
        urllib.request.urlopen(address, timeout=10)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def wait_until(true: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What ``true`` returns once it is true; fails after ``seconds``, which only a broken viewer needs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not true within {seconds} s: {true}")


@pytest.fixture(scope="session")
def viewer(open_viewer: Callable[..., Viewer], demo_folder: Path) -> Viewer:
    """A viewer of the made-up run."""
    return open_viewer(demo_folder)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Headless Chromium under selenium; its downloads go to ``chromium.downloads``."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver in PATH: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield browser
    browser.quit()
