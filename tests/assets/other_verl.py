"""Another version of verl, unpacked into a folder: nothing of it is installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


def unpacked(version: str, folder: Path) -> Path:
    """Folder with a version of verl in it, fit for ``PYTHONPATH``; the test is skipped where none is to be had."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-input", "-d", folder]
    done = subprocess.run([*command, f"verl=={version}"], capture_output=True, text=True, timeout=180)
    if done.returncode:
        pytest.skip(f"verl {version} cannot be downloaded: {done.stderr.strip()[-200:]}")
    (wheel,) = folder.glob("verl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"
