"""Numbers that the paper authors' released code computed (``golden/README.md``): ours has to give the same.

The folder is ``tests/golden``, or the one that ``ATPO_GOLDEN_DIR`` names, so that other cases of the same form can be
put under the same test.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from verl.workers.config import ActorConfig

from tests.assets.trees import padded_rows, rows_of, scaled
from verl_atpo.config import AdvantageMode, AtpoConfig, Backup, CreditConfig, ExpansionConfig, Normalize, Penalty
from verl_atpo.method.credit import node_values
from verl_atpo.method.estimator import compute_atpo_advantage
from verl_atpo.method.expansion import select_turns
from verl_atpo.method.loss import compute_policy_loss_atpo
from verl_atpo.method.scheme import scheme_named
from verl_atpo.tree.tree import TurnTree

FOLDER = Path(os.environ.get("ATPO_GOLDEN_DIR") or Path(__file__).parent)
TOLERANCE = {"rel": 1e-6, "abs": 1e-6}
MODES = {"node_value": AdvantageMode.VALUE} | {mode.value: mode for mode in list(AdvantageMode)[1:]}


def load(name: str) -> list[dict[str, Any]]:
    path = FOLDER / name
    return json.loads(path.read_text()) if path.exists() else []


TREES = load("tree_credit.json")
LOSSES = load("turn_loss.json")
each_tree = pytest.mark.parametrize("case", TREES, ids=range(len(TREES)))
each_loss = pytest.mark.parametrize("case", LOSSES, ids=range(len(LOSSES)))
each_scale = pytest.mark.parametrize("scale", ["norm", "raw"])


def tree_of(case: dict[str, Any], scale: str) -> TurnTree:
    rewards = {int(leaf): reward for leaf, reward in case["leaf_reward"].items()}
    if scale == "norm":
        rewards = dict(zip(rewards, scaled(list(rewards.values()), Normalize.ZSCORE), strict=True))
    tree = TurnTree()
    for index in range(1, len(case["parent"])):
        tree.add_turn(
            case["parent"][index],
            mean_nll=case["entropy"][index],
            is_leaf=case["is_leaf"][index],
            reward=rewards.get(index),
        )
    return tree


def test_the_folder_holds_cases():
    assert TREES, f"no cases in {FOLDER / 'tree_credit.json'}"
    assert LOSSES, f"no cases in {FOLDER / 'turn_loss.json'}"


@each_tree
def test_selection(case):
    config = ExpansionConfig(penalty=case["branch_penalty"], penalty_counts=Penalty.SIBLINGS, strategy="entropy")
    assert case["selected_topk"]
    for k, expected in case["selected_topk"].items():
        assert select_turns(tree_of(case, "raw"), int(k), config, random.Random(0)) == expected


@each_scale
@each_tree
def test_values_and_advantages(case, scale):
    tree = tree_of(case, scale)
    for backup in Backup:
        assert node_values(tree, backup) == pytest.approx(case["values"][f"{backup.value}|{scale}"], **TOLERANCE)
        for name, expected in case["advantages"][f"{backup.value}|{scale}"].items():
            paper = scheme_named("paper")(AtpoConfig(credit=CreditConfig(backup, MODES[name], Normalize.NONE)))
            values, advantages = paper.evaluate(tree, 0.0)
            assert values == pytest.approx(case["values"][f"{backup.value}|{scale}"], **TOLERANCE)
            assert advantages == pytest.approx(expected, **TOLERANCE)


@each_scale
@each_tree
def test_the_estimator_gives_every_token_its_turns_advantage(case, scale):
    """Raw advantages through the token-level rewards, scaled afterwards: the same as leaves normalised first."""
    normalize = {"norm": Normalize.ZSCORE, "raw": Normalize.NONE}[scale]
    for backup in Backup:
        for name, expected in case["advantages"][f"{backup.value}|{scale}"].items():
            settings = CreditConfig(backup, MODES[name], normalize)
            rows = rows_of(tree_of(case, "raw"), settings)
            rewards, mask = padded_rows(rows, extra=2)
            turns = [row.turn_of + [None] * (mask.shape[1] - len(row.turn_of)) for row in rows]
            config = {"atpo": AtpoConfig(credit=settings)}
            ours, _ = compute_atpo_advantage(rewards, mask, ["tree"] * len(rows), config)
            wanted = [[0.0 if turn is None else expected[turn] for turn in row] for row in turns]
            torch.testing.assert_close(ours, torch.tensor(wanted), rtol=1e-6, atol=2e-6)


@each_loss
def test_turn_loss(case):
    config = ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=case["clip_ratio_low"],
        clip_ratio_high=case["clip_ratio_high"],
    )
    old, new, advantages = (
        torch.tensor(case[key], dtype=torch.float64) for key in ("old_log_prob", "log_prob", "advantages")
    )
    new.requires_grad_()
    mask = torch.tensor(case["response_mask"])
    loss, metrics = compute_policy_loss_atpo(old, new, advantages, mask, "seq-mean-token-mean", config)
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], **TOLERANCE)
    torch.testing.assert_close(new.grad, torch.tensor(case["grad_log_prob"], dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert metrics["actor/pg_clipfrac"] == pytest.approx(case["pg_clipfrac"], **TOLERANCE)
    assert metrics["actor/ppo_kl"] == pytest.approx(case["ppo_kl"], **TOLERANCE)
