"""Credit schemes: which one a run uses, one from outside the package, and what a tree that failed still says."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from tests.assets.trees import even_rows, random_tree
from verl_atpo.config import AtpoConfig, ConfigError, Contexts, CreditConfig
from verl_atpo.method.estimator import compute_atpo_advantage
from verl_atpo.method.scheme import SCHEMES, Scheme, find_scheme, known_schemes, own_estimators, register_scheme
from verl_atpo.startup.presets import TREE, UNBIASED
from verl_atpo.tree.tree import ROOT, TurnTree

DOCS = Path(__file__).parents[2] / "docs" / "my_scheme.md"


def class_of_the_docs() -> str:
    """The module that docs/my_scheme.md shows."""
    block = DOCS.read_text().partition("    # my_schemes.py\n")[2].partition("\n| argument")[0]
    lines = textwrap.dedent(block).strip().splitlines()
    assert 10 < len(lines) < 60
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("atpo", "estimator", "name"),
    [
        (AtpoConfig(), "atpo", "paper"),
        (TREE, "atpo", "shrunk"),
        (TREE, "grpo", "shrunk"),
        (AtpoConfig(credit=CreditConfig(contexts=Contexts.MERGED)), "atpo", "merged"),
        (AtpoConfig(credit=CreditConfig(contexts=Contexts.MERGED)), "grpo", "merged"),
        (UNBIASED, "atpo", "split"),
        (AtpoConfig(credit=CreditConfig(tool_rewards=1.0)), "atpo", "returns"),
        (AtpoConfig(credit=CreditConfig(tool_rewards=1.0, contexts=Contexts.MERGED)), None, "returns"),
        (AtpoConfig(credit=CreditConfig(scheme="paper")), "atpo", "paper"),
        *((AtpoConfig(), kind.estimator, kind.name) for kind in known_schemes().values() if kind.estimator != "atpo"),
    ],
)
def test_settings_name_the_scheme(atpo, estimator, name):
    assert find_scheme(atpo, estimator).name == name


def test_a_scheme_from_outside_the_package_trains_the_estimator(tmp_path, monkeypatch):
    """The class of the docs, by hand: siblings 1.0, 0.0 and 0.5 after one turn, and a chain of two turns."""
    (tmp_path / "my_schemes.py").write_text(class_of_the_docs())
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_schemes", raising=False)
    settings = {"scheme": "my_schemes.AgainstSiblings", "normalize": "center", "backup": "child_mean"}
    tree = TurnTree()
    first = tree.add_turn(ROOT, mean_nll=0.0).index
    for reward in (1.0, 0.0, 0.5):
        tree.add_turn(first, mean_nll=0.0, is_leaf=True, reward=reward)
    other = tree.add_turn(ROOT, mean_nll=0.0).index
    tree.add_turn(other, mean_nll=0.0, is_leaf=True, reward=0.0)
    rewards, mask = even_rows(tree, AtpoConfig.from_mapping({"credit": settings}).credit)
    assert rewards.sum(dim=1).tolist() == [1.0, 0.0, 0.5, 0.0]
    found, _ = compute_atpo_advantage(rewards, mask, np.array(["t"] * 4), {"atpo": {"credit": settings}})
    expected = [[0.5, 0.75], [0.5, -0.75], [0.5, 0.0], [-0.5, 0.0]]  # the first turns' values are 0.5 and 0
    assert found[:, [0, 3]].tolist() == [pytest.approx(row) for row in expected]
    assert found[mask == 0].abs().max() == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"scheme": "papper"},
            r"credit.scheme=papper cannot work.*paper, returns, shrunk, split.*Did you mean paper\?",
        ),
        ({"scheme": "no_such_module.Scheme"}, r"credit.scheme=no_such_module.Scheme cannot work.*PYTHONPATH"),
        ({"scheme": "verl_atpo.config.NoScheme"}, r"credit.scheme=verl_atpo.config.NoScheme cannot work.*NoScheme"),
        ({"scheme": "verl_atpo.config.AtpoConfig"}, r"expected a subclass of verl_atpo.method.scheme.Scheme"),
        ({"scheme": "paper", "contexts": "merged"}, r"credit.*scheme='paper' cannot work.*scheme=merged"),
        ({"scheme": "split"}, r"credit.*scheme='split' cannot work.*scheme=paper"),
    ],
)
def test_what_is_no_scheme_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        find_scheme(AtpoConfig.from_mapping({"credit": settings}))


def test_a_name_is_taken_once():
    paper = known_schemes()["paper"]
    assert register_scheme(paper) is paper
    with pytest.raises(ValueError, match="'paper' is registered already"):
        register_scheme(type("Other", (paper,), {}))
    assert SCHEMES["paper"] is paper


@pytest.mark.parametrize("estimator", own_estimators())
def test_a_tree_without_a_known_outcome_has_no_credit(estimator):
    tree = random_tree(1)
    for leaf in tree.leaves:
        tree.nodes[leaf].reward = None
    credit = find_scheme(AtpoConfig(), estimator).credit(tree, [])
    assert credit.values == credit.advantages == [None] * len(tree.nodes)
    assert credit.rows == credit.outcomes == []


@pytest.mark.parametrize(
    ("advantages", "message"),
    [
        (lambda tree: [0.0] * (len(tree.nodes) - 1), r"scheme=odd cannot work: it gave \d+ values and \d+ advantages"),
        (lambda tree: [None] * len(tree.nodes), r"it gave the advantage None to node \d+, a turn of a trajectory"),
        (lambda tree: [float("nan")] * len(tree.nodes), r"it gave the advantage nan to node \d+.*finite number"),
    ],
)
def test_numbers_that_no_row_can_carry_are_refused(advantages, message):
    class Odd(Scheme):
        name = "odd"

        def evaluate(self, tree, zero):
            return [0.0] * len(tree.nodes), advantages(tree)

    with pytest.raises(ConfigError, match=message):
        Odd(AtpoConfig()).credit(random_tree(3))


def test_an_estimator_and_a_scheme_that_belong_to_two_are_refused():
    for kind in known_schemes().values():
        if kind.estimator != "atpo":
            with pytest.raises(ConfigError, match=f"adv_estimator={kind.estimator} always uses scheme={kind.name}"):
                find_scheme(AtpoConfig(credit=CreditConfig(scheme="paper")), kind.estimator)
            with pytest.raises(ConfigError, match=f"set algorithm.adv_estimator={kind.estimator}"):
                find_scheme(AtpoConfig(credit=CreditConfig(scheme=kind.name)), "atpo")
