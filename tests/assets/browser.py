"""A viewer in a process of its own, and a headless Chromium to look with: for benchmark, pictures and tests."""

from __future__ import annotations

import contextlib
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

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "no chromium and chromedriver in PATH: apt-get install chromium chromium-driver"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--hide-scrollbars",
)  # fmt: skip
START_S = 60.0


@contextlib.contextmanager
def browser(width: int = 1500, height: int = 1100) -> Iterator[Any]:
    """Headless Chromium under selenium, which logs what it fetches.

    Raises:
        RuntimeError: there is none.
    """
    if CHROMIUM is None or DRIVER is None:
        raise RuntimeError(MISSING)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@contextlib.contextmanager
def viewer(folder: Path, cache: Path, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A viewer of ``folder``: the address of its first page, without the slash at the end, and its process."""
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
    # NiceGUI looks for pytest in its environment; a user has none.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split(": ", 1)[1].split()[0]
        wait_until(lambda: answers(address), START_S)
        yield address.split("?")[0].rstrip("/"), process
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(address: str) -> bool:
    """Return whether something listens there."""
    try:
        urllib.request.urlopen(address, timeout=10)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def wait_until(true: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait for a true result of ``true``, and return it.

    Raises:
        TimeoutError: it was not within ``seconds``, which only something broken needs.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.02)
    raise TimeoutError(f"not true within {seconds} s: {true}")
