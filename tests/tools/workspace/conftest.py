"""Providers of workspaces in every isolation and with every technique that works here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.assets.workspaces import WAYS, make_provider
from verl_atpo.tools.workspace import LocalProvider


@pytest.fixture(params=WAYS, ids="-".join)
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def provider(way: tuple[str, str], tmp_path: Path) -> Iterator[LocalProvider]:
    made = make_provider(way, tmp_path)
    yield made
    made.close()
    assert not list(tmp_path.glob("atpo-*/*"))
