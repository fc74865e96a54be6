"""The terms of an advantage: they add up to what the estimator gives, whatever the settings; and their words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assets.trees import credit_of, random_tree
from verl_atpo.config import AdvantageMode, Backup, CreditConfig, Normalize
from verl_atpo.render.explanation import amount, explain
from verl_atpo.report.differences import context_numbers, differences_of
from verl_atpo.tree.tree import ROOT, TurnTree


def tree() -> TurnTree:
    """Two chains of two turns, and an expansion of the second turn of the first: rewards 1, 0 and 0.

    0 - 1 - 2 (1)      V(1) = 1/2, V(4) = 0, V(0) = 1/4 (child_mean)
    |   \\ - 3 (0)
    4 - 5 (0)
    """
    made = TurnTree()
    first = made.add_turn(ROOT, mean_nll=1.0).index
    made.add_turn(first, mean_nll=1.0, is_leaf=True, reward=1.0)
    made.add_turn(first, mean_nll=1.0, is_leaf=True, reward=0.0, round=1)
    second = made.add_turn(ROOT, mean_nll=1.0).index
    made.add_turn(second, mean_nll=1.0, is_leaf=True, reward=0.0)
    return made


def settings(**fields: Any) -> CreditConfig:
    return CreditConfig(**{"backup": Backup.CHILD_MEAN, "normalize": Normalize.NONE, "contexts": "separate", **fields})


@pytest.mark.parametrize(
    ("mode", "terms"),
    [
        (AdvantageMode.DIFF_PARENT, [(1.0, 0.5, "parent")]),
        (AdvantageMode.DIFF_GLOBAL, [(1.0, 0.25, "prompt")]),
        (AdvantageMode.DIFF_LOCALGLOBAL, [(1.0, 0.5, "parent"), (1.0, 0.25, "prompt")]),
        (AdvantageMode.VALUE, [(1.0, 0.0, "")]),
        # b(1) = (1/4 + 1/4) / 2 = 1/4; of node 2, two turns in its context: (1/4 + 1/2) / 2
        (AdvantageMode.DIFF_CONTEXT, [(1.0, 0.375, "context")]),
    ],
)
def test_the_terms_of_a_turn(mode: AdvantageMode, terms: list[tuple[float, float, str]]) -> None:
    credit = settings(advantage=mode)
    found = differences_of(tree(), credit_of(tree(), credit), credit)[2]
    assert found is not None
    assert [(each["value"], each["baseline"], each["baseline_from"]) for each in found] == terms
    if mode is AdvantageMode.DIFF_CONTEXT:
        assert (found[0]["samples"], found[0]["prior"], found[0]["prior_share"]) == (2, 0.25, 0.5)


@given(st.integers(0, 500), st.sampled_from(AdvantageMode), st.sampled_from(Backup), st.sampled_from(Normalize))
def test_terms_add_up_to_the_advantage(seed: int, mode: AdvantageMode, backup: Backup, normalize: Normalize) -> None:
    grown = random_tree(seed)
    config = settings(advantage=mode, backup=backup, normalize=normalize)
    credit = credit_of(grown, config)
    terms = differences_of(grown, credit, config)
    for index, (advantage, each) in enumerate(zip(credit.advantages, terms, strict=True)):
        assert (each is None) == (index == ROOT or advantage is None)
        if each is not None:
            assert sum(map(amount, each)) == pytest.approx(advantage, abs=1e-9)


def test_nothing_is_said_of_a_credit_that_is_another() -> None:
    config = settings(advantage=AdvantageMode.DIFF_GLOBAL)
    credit = credit_of(tree(), config)
    other = dataclasses.replace(credit, advantages=[None, *(0.7 for _ in credit.advantages[1:])])
    assert differences_of(tree(), other, config) == [None] * 6
    shrunk = settings(advantage=AdvantageMode.DIFF_CONTEXT)  # and not only where a term says so itself
    moved = dataclasses.replace(credit_of(tree(), shrunk), advantages=[None, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert differences_of(tree(), moved, shrunk) == [None] * 6
    split = settings(weights="split", advantage="diff_global")
    assert context_numbers(tree(), config) == [-1, 0, 1, 1, 0, 4]
    assert len(differences_of(tree(), credit_of(tree(), split), split)) == 6


def test_an_advantage_in_words() -> None:
    terms = [
        {"value": 1.0, "baseline": 0.36, "baseline_from": "prompt", "scale": 2.046875},
        {"value": 1.0, "baseline": 0.53, "baseline_from": "context", "samples": 10, "scale": 2.0},
    ]
    node = {"advantage": 2.25, "differences": terms}
    assert explain({"nodes": []}, node) == [
        "+2.25 = 1.31 (1.00 over the prompt's 0.36) + 0.94 (1.00 over 0.53, ten turns in the same context)",
        "The differences are multiplied by 2.00 and 2.05, the normalisation of this tree's outcomes.",
    ]
    shrunk = {"value": 0.0, "baseline": 0.25, "baseline_from": "context", "samples": 1, "prior": 0.5,
              "prior_from": "before", "prior_share": 0.3, "weight": 0.5}  # fmt: skip
    assert explain({"nodes": []}, {"advantage": -0.125, "differences": [shrunk]}) == [
        "-0.12 = -0.12 (0.50 times 0.00 over 0.25, one turn in the same context, shrunk by 30% to 0.50, the baseline "
        "of the turn before)"
    ]
    assert explain({"nodes": []}, {"advantage": 0.5, "differences": [shrunk]})[1:] == [
        "The dump does not explain the remaining +0.62."
    ]
    alone = {"value": 1.0, "baseline": 0.5, "baseline_from": "chains", "samples": 0}
    assert explain({"nodes": []}, {"advantage": 0.5, "differences": [alone]}) == [
        "+0.50 = 0.50 (1.00 over 0.50, the other chains)"
    ]
    zero = {"value": 0.3, "baseline": 0.3001, "baseline_from": "leaves"}
    assert explain({"nodes": []}, {"advantage": -0.0001, "differences": [zero]}) == [
        "0.00 = 0.00 (0.30 over 0.30, the mean reward of the tree)"
    ]


def test_a_dump_without_terms_says_what_there_is_to_compare() -> None:
    nodes = [
        {"index": index, "parent": 0, "text": str(index), "observation": "", "value": value, "advantage": 1.0}
        for index, value in enumerate((1.0, 0.5, 0.0, None), 1)
    ]
    record = {"nodes": nodes, "root_value": 0.36}
    assert explain(record, nodes[0]) == [
        "Its value is 1.00, the prompt's is 0.36, two other turns in the same context average 0.25."
    ]
    assert explain(record, {**nodes[0], "advantage": None}) == []
