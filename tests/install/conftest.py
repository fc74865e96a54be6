"""The archives, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.assets.installed import build


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """sdist and wheel."""
    return build(tmp_path_factory.mktemp("archives"))
