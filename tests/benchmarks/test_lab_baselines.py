"""Variance that baselines leave: fitted on some trees and tested on others, by turns worked out by hand and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.lab import hopqa
from benchmarks.lab.baselines import Turns, sample, table, unexplained


def drawn(count: int, seed: int = 0) -> Turns:
    """Turns of one depth whose outcome is the sign of a hidden number, which others' mean outcome does not show."""
    random = torch.Generator().manual_seed(seed)
    hidden_ND = torch.randn(count, 3, generator=random, dtype=torch.float64)
    outcome_N = (hidden_ND[:, 0] > 0).double()
    noise_N = torch.rand(count, generator=random, dtype=torch.float64)
    one_N = torch.ones(count, dtype=torch.float64)
    return Turns(
        outcome_N, noise_N, noise_N, one_N, torch.zeros(count, dtype=torch.long), hidden_ND, torch.arange(count)
    )


def test_errors_weigh_tokens_of_held_out_turns_only() -> None:
    whole = drawn(4)
    tokens_N = torch.tensor([5.0, 5.0, 3.0, 1.0], dtype=torch.float64)
    outcome_N = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    others_N = torch.tensor([9.0, 9.0, 0.5, 0.5], dtype=torch.float64)
    turns = Turns(outcome_N, others_N, outcome_N, tokens_N, whole.depth_N, whole.hidden_ND, whole.tree_N)
    found = unexplained(turns, torch.tensor([False, False, True, True]))
    assert found["others"] == pytest.approx(0.25)
    assert found["shrunk"] == 0.0


def test_what_earlier_prompts_know_and_what_only_a_critic_sees() -> None:
    turns = drawn(3000)
    found = unexplained(turns, turns.tree_N >= 2000)
    assert found["others"] > 0.3  # a variance of 1/4 and the noise of a baseline that knows nothing
    assert found["remembered"] == pytest.approx(0.25, abs=0.01)
    assert found["critic"] < 0.12  # a line through a step leaves 1/4 - 1 / (2 pi) = 0.09


def test_trees_of_the_preset_are_measured_turn_by_turn() -> None:
    task = hopqa.make_task(2)
    turns = sample(task, task.model().state_dict(), 8, seed=0)
    assert set(turns.tree_N.tolist()) == set(range(8))
    rows = (turns.depth_N == 0).sum()  # a row has one first turn
    assert rows == 8 * 12
    assert turns.hidden_ND.shape[0] == len(turns.outcome_N) == len(turns.tokens_N) > rows
    assert set(turns.outcome_N.tolist()) <= {0.0, 1.0}


def test_a_row_a_task_and_world(tmp_path: Path) -> None:
    file = tmp_path / "kept.json"
    assert table(file) == "Nothing is measured yet."
    found = {"others": 0.2, "shrunk": 0.21, "remembered": 0.18, "critic": 0.17}
    file.write_text(json.dumps([{"settings": {"task": "hopqa", "world": 1, "trees": 200}, "found": found}]))
    *_, row = table(file).splitlines()
    assert [cell.strip() for cell in row.split("|")][1:-1] == ["HopQA, 2 to 6 hops", "1", "200", "1.05", "0.90", "0.85"]
