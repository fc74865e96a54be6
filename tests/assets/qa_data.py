"""Real questions and passages, which the repository does not hold: the environment names a folder of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.assets.retriever_data import QA_DATA


def real_data(name: str) -> Path:
    """The file of this name; skips the test where the environment names no folder.

    Raises:
        FileNotFoundError: it names one without this file.
    """
    if not (folder := os.environ.get(QA_DATA)):
        pytest.skip(f"no real questions and passages: {QA_DATA} names no folder with {name}")
    if not (file := Path(folder) / name).is_file():
        raise FileNotFoundError(f"{QA_DATA}={folder} has no {name}; name a folder that has, or unset it")
    return file
