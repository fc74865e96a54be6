"""A strategy, a metric and a start-up rule from outside of the package: the module of docs/my_scheme.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.assets.configs import config_with, refusal
from tests.assets.fakes import FakeEngine, FakeLoop
from tests.assets.growing import grow_tree
from verl_atpo import extensions
from verl_atpo.config import AtpoConfig, ConfigError
from verl_atpo.method import expansion
from verl_atpo.method.scheme import find_scheme
from verl_atpo.report import metrics
from verl_atpo.startup.rules import table

PAGE = Path(__file__).parents[1] / "docs" / "my_scheme.md"
SETTINGS = {
    "extensions": ["my_extensions"],
    "expansion": {"strategy": "deepest", "initial_chains": 2, "schedule": "rounds", "rounds": 1},
}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The module of the page, in a folder that Python knows; registries are restored."""
    _, _, code = PAGE.read_text().partition("    # my_extensions.py\n")
    lines = [line.removeprefix("    ") for line in code.partition("\n| what")[0].splitlines()]
    (tmp_path / "my_extensions.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(expansion, "STRATEGIES", dict(expansion.STRATEGIES))
    monkeypatch.setattr(metrics, "METRICS", dict(metrics.METRICS))
    monkeypatch.setattr(table, "_registered", list(table._registered))
    yield
    sys.modules.pop("my_extensions", None)


async def test_a_strategy_and_a_metric_from_outside_are_used(module):
    atpo = AtpoConfig.from_mapping(SETTINGS)
    grown = await grow_tree(atpo, FakeEngine(3, stop=0.2), FakeLoop(5))
    chains = grown.leaves[:2]
    inner = [node for node in grown.tree.nodes[1:] if node.round == 0 and not node.is_leaf]
    assert inner and grown.tree.depth(grown.selected[0]) == max(grown.tree.depth(node.index) for node in inner)
    assert len(chains) == 2 and len(grown.leaves) == 5
    stats = metrics.tree_stats(grown, 1.0, find_scheme(atpo).credit(grown.tree, grown.paths))
    found = metrics.step_metrics(metrics.WorkerStats([stats]))
    assert found["atpo/deepest_turn"] == max(map(grown.tree.depth, grown.leaves))


def test_a_rule_from_outside_refuses_a_run(module):
    settings = ("algorithm.atpo.extensions=[my_extensions]", "data.seed=4294967296")
    assert "data.seed=4294967296 cannot work: expected less than 2^31" in refusal(config_with(*settings))


def test_a_module_that_is_not_there_is_refused_with_its_name():
    with pytest.raises(ConfigError, match=r"algorithm.atpo.extensions=no_such_module cannot work: .*PYTHONPATH"):
        AtpoConfig.from_mapping({"extensions": ["no_such_module"]})
    with pytest.raises(ConfigError, match=r"algorithm.atpo.extensions='my_module' cannot work"):
        AtpoConfig.from_mapping({"extensions": "my_module"})


def test_an_installed_package_needs_no_setting(module, tmp_path, monkeypatch):
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[verl_atpo.extensions]\nmine = my_extensions\n")
    extensions.import_installed.cache_clear()
    assert expansion.strategy_named("deepest").__name__ == "deepest"
