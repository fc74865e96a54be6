"""For all tests: the seed of property tests is printed, and what the package logs reaches pytest.

Property tests draw from one seed, which pytest prints first: ``--hypothesis-seed=N`` repeats a run.
"""

from __future__ import annotations

import os
import random
import sys

import hypothesis
import pytest

from tests.assets.configs_read_once import read_verls_configs_once
from tests.assets.python_path import QUICK
from verl_atpo.log import own_logger

# Before torch is loaded, and for what tests start: models are tiny, and threads that wait by spinning for one another
# take a busy machine ten times as long as one thread does the work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(QUICK), os.environ.get("PYTHONPATH")]))


FIRST = (
    *(f"tests/e2e/test_{name}.py" for name in ("a2tgpo", "asynchronous", "nodes", "faults", "paper_small", "training")),
    "tests/schemes/test_without_a2tgpo.py",
    "tests/packed/test_engine.py",
    "tests/install/test_installed.py",
    "tests/gateway/test_harnesses.py",
    "tests/search_qa/test_retriever.py",
    "tests/tools/python/test_attacks.py",
    "tests/view/test_browser.py",
)
"""Files that begin first: the longest, and real runs in an order that keeps two workers busy to the end.

A file is one worker's, and a worker takes the next file when two tests are left to it.
"""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose settings and seed before hypothesis' own plugin reads it."""
    read_verls_configs_once()
    hypothesis.settings.register_profile("house", deadline=None)  # a deadline would test what else the machine does
    hypothesis.settings.register_profile("few", deadline=None, max_examples=10)  # --hypothesis-profile=few
    hypothesis.settings.load_profile("house")
    if config.getoption("--hypothesis-seed", None) is None:
        config.option.hypothesis_seed = random.SystemRandom().randrange(2**32)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest; ``--no-loadscope-reorder`` keeps this order."""
    items.sort(key=lambda item: FIRST.index(path) if (path := item.nodeid.partition("::")[0]) in FIRST else len(FIRST))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Print the seed, which the quiet mode's missing header would hide."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"seed of property tests: --hypothesis-seed={session.config.option.hypothesis_seed}")


@pytest.fixture(autouse=True)
def _log_reaches_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """In real runs the package's logger hands nothing on."""
    monkeypatch.setattr(own_logger(), "propagate", True)


@pytest.fixture(autouse=True)
def _no_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configs that tests hand to the driver's check name no real files; runs in processes of their own rehearse."""
    if (driver := sys.modules.get("verl_atpo.startup.driver")) is not None:
        monkeypatch.setattr(driver, "rehearses", lambda run: False)
