from __future__ import annotations

import pytest

from verl_atpo.gateway.service import close_service


@pytest.fixture(autouse=True)
async def _no_service_is_left():
    yield
    await close_service()
