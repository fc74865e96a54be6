"""Property tests draw from one seed, which pytest prints first: ``--hypothesis-seed=N`` repeats a run."""

from __future__ import annotations

import random

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed before hypothesis' own plugin reads it."""
    if config.getoption("--hypothesis-seed", None) is None:
        config.option.hypothesis_seed = random.SystemRandom().randrange(2**32)


def pytest_report_header(config: pytest.Config) -> str:
    """The seed."""
    return f"seed of property tests: --hypothesis-seed={config.option.hypothesis_seed}"
