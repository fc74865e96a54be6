"""Turns sampled twice in one context: what is compared, and the correlations on numbers whose answers are known."""

from __future__ import annotations

import asyncio
import json
import math
import random
from pathlib import Path

import pytest
import torch

from benchmarks.lab import hopqa
from benchmarks.lab.arms import ARMS, settings
from benchmarks.lab.engine import Engine
from benchmarks.lab.rollout import grow_tree
from benchmarks.lab.uncertainty import ARM, Twice, entropy, sampled_twice, summary, table
from verl_atpo.tree.tree import ROOT


def test_correlations_of_the_first_sample_with_the_second() -> None:
    found = [Twice(1.0, 0.1, 3.0, 0.2), Twice(2.0, 0.2, 2.0, 0.4), Twice(3.0, 0.3, 1.0, 0.6)]
    told = summary(found)
    assert told["contexts"] == 3 and told["mean_nll"] == pytest.approx(2.0)
    assert told["nll, nll again"] == pytest.approx(-1.0)
    assert told["entropy, entropy again"] == pytest.approx(1.0)
    assert told["entropy, nll again"] == pytest.approx(-1.0)


def test_a_picked_turn_stands_beside_the_one_sampled_in_its_place() -> None:
    task = hopqa.make_task(2)
    engine, atpo = Engine(task.model(), 0, task.end), settings(ARMS[ARM].overrides).atpo
    (grown,) = asyncio.run(engine.serve([grow_tree(engine, task.train[0], task, atpo, random.Random(0))]))
    tree = grown.tree
    picked = [node for node in grown.selected if node != ROOT]
    found = sampled_twice(grown)
    assert len(found) == len(picked) > 0
    for node, each in zip(picked, found, strict=True):
        assert each.nll == tree.nodes[node].mean_nll
        assert each.entropy == entropy(tree.turn(node))
        siblings = [tree.turn(at) for at in tree.nodes[tree.nodes[node].parent].children if at != node]
        assert (each.nll_again, each.entropy_again) in [(turn.mean_nll, entropy(turn)) for turn in siblings]


def test_entropies_are_those_of_what_tokens_are_drawn_from() -> None:
    task = hopqa.make_task(2)
    engine = Engine(task.model(), 0, task.end)
    even = torch.zeros(1, 8)
    certain = torch.tensor([[0.0, -math.inf, -math.inf]])
    assert engine._sample(even)[2] == pytest.approx([math.log(8)])
    assert engine._sample(certain)[2] == [0.0]


def test_a_row_a_task_and_world(tmp_path: Path) -> None:
    assert table(tmp_path / "none.json") == "Nothing is measured yet."
    found = summary([Twice(1.0, 0.1, 3.0, 0.2), Twice(2.0, 0.2, 2.0, 0.4)]) | {"turns selected in a tree": 9.5}
    file = tmp_path / "kept.json"
    file.write_text(json.dumps([{"settings": {"task": "hopqa", "world": 1}, "found": found}]))
    heads, _, row = ([cell.strip() for cell in line.split("|")][1:-1] for line in table(file).splitlines())
    assert dict(zip(heads, row, strict=True)) == {
        "task": "HopQA, 2 to 6 hops",
        "world": "1",
        "contexts sampled twice": "2",
        "turns selected in a tree": "9.5",
        "NLL with NLL again": "-1.00",
        "entropy with NLL again": "-1.00",
        "entropy with entropy again": "1.00",
    }
