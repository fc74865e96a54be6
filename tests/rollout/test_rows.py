"""From a grown tree to verl's rows, the dump and the logger."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from verl.experimental.agent_loop import AgentLoopOutput

from tests.assets.fakes import FakeEngine, FakeLoop, run_loop_with
from tests.assets.trees import credit_of, outputs_of, tree_advantages
from verl_atpo.config import (
    AdvantageMode,
    AtpoConfig,
    Backup,
    Contexts,
    CreditConfig,
    ExpansionConfig,
    GrowthConfig,
    Schedule,
    SharedTurns,
)
from verl_atpo.method.channel import is_marked
from verl_atpo.method.estimator import compute_atpo_advantage
from verl_atpo.report.tracking import add_to_tracking
from verl_atpo.rollout.grower import TreeGrower
from verl_atpo.rollout.rows import sampled_text
from verl_atpo.tree.growth import GrownTree
from verl_atpo.tree.recording import Generation, Turn


async def grow(seed: int = 0, stop: float = 0.3) -> GrownTree:
    config = AtpoConfig(expansion=ExpansionConfig(3, 2, 2, schedule=Schedule.ROUNDS), growth=GrowthConfig(0, 0.0))
    run_loop = run_loop_with(FakeEngine(seed, stop=stop), FakeLoop(5))
    return await TreeGrower(config, run_loop, random.Random(0)).grow()


def padded(rows: list[dict], key: str) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([row[key] for row in rows], batch_first=True)


@pytest.mark.parametrize("shared_turns", SharedTurns)
@pytest.mark.parametrize("backup", Backup)
@pytest.mark.parametrize("mode", AdvantageMode)
async def test_rows_give_every_turn_the_advantage_of_its_node(mode, backup, shared_turns):
    check_rows(await grow(), CreditConfig(backup=backup, advantage=mode, shared_turns=shared_turns))


@pytest.mark.parametrize("contexts", [Contexts.MERGED, Contexts.STATES])
@pytest.mark.parametrize("mode", [AdvantageMode.DIFF_PARENT, AdvantageMode.DIFF_LOCALGLOBAL])
async def test_rows_say_what_contexts_are_worth(mode, contexts):
    """Words are made of lengths, so that chains often say and read the same."""
    grown = await grow(seed=1)
    for node in grown.tree.nodes[1:]:
        (said,) = grown.tree.turn(node.index).generations
        output = SimpleNamespace(token_ids=[7] * len(said.output.token_ids), extra_fields={})
        node.turn = Turn((Generation(0, [7] * len(said.observed_ids), output),))
    credit = CreditConfig(advantage=mode, contexts=contexts)
    check_rows(grown, credit)
    separate = dataclasses.replace(credit, contexts=Contexts.SEPARATE)
    assert tree_advantages(grown.tree, credit) != pytest.approx(tree_advantages(grown.tree, separate))


def check_rows(grown: GrownTree, credit: CreditConfig) -> None:
    """Each token gets what the credit says of its turn, and each row adds up to its outcome."""
    rows = [output.as_dict() for output in outputs_of(grown, credit)]
    rewards = [branch.reward for branch in grown.trajectories]
    assert len(set(rewards)) > 1
    torch.testing.assert_close(torch.stack([row["rm_scores"].sum() for row in rows]), torch.tensor(rewards))

    settings = {"atpo": {"credit": AtpoConfig(credit=credit).to_mapping()["credit"]}}
    mask = padded(rows, "response_mask")
    advantages, _ = compute_atpo_advantage(
        padded(rows, "rm_scores"), mask, np.array(["uid"] * len(rows), dtype=object), settings
    )
    expected = credit_of(grown, credit).advantages
    for row, leaf in enumerate(grown.leaves):
        path = grown.tree.path(leaf)
        for node, start in zip(path, grown.trajectories[row].starts, strict=True):
            turn = grown.tree.turn(node)
            for token in range(
                start, min(start + len(turn.token_ids), len(grown.trajectories[row].output.response_ids))
            ):
                if mask[row, token]:
                    assert advantages[row, token].item() == pytest.approx(expected[node], abs=1e-5)


async def test_shared_turns_are_trained_once_per_leaf_or_once():
    grown = await grow(stop=0.1)
    sampled = sum(len(grown.tree.turn(node.index).token_ids) for node in grown.tree.nodes[1:])
    leaves_below = Counter(node for leaf in grown.leaves for node in grown.tree.path(leaf))
    assert max(leaves_below.values()) > 1
    trained = {
        shared: sum(
            int(output.as_dict()["response_mask"].sum())
            for output in outputs_of(grown, CreditConfig(shared_turns=shared))
        )
        for shared in SharedTurns
    }
    assert trained[SharedTurns.ONCE] == sampled
    assert trained[SharedTurns.PER_LEAF] == sum(
        len(grown.tree.turn(node).token_ids) * times for node, times in leaves_below.items()
    )


@pytest.mark.parametrize("limit", [1, 2, 3, 6])
async def test_a_row_that_the_response_limit_cut_off_has_all_the_credit_of_its_turns(limit):
    """A row of a few tokens gets masked ones, so that it has room."""
    grown = await grow(stop=0.1)
    for branch in grown.trajectories:
        branch.output.response_ids = branch.output.response_ids[:limit]
        branch.output.response_mask = branch.output.response_mask[:limit]
        branch.output.response_logprobs = [-0.5] * len(branch.output.response_ids)
    assert any(branch.starts[branch.replayed] > limit for branch in grown.trajectories)  # a turn is one generation here
    credit = CreditConfig(shared_turns=SharedTurns.ONCE)
    check_rows(grown, credit)
    for output, branch in zip(outputs_of(grown, credit), grown.trajectories, strict=True):
        assert len(output.response_mask) == len(output.response_ids) == len(output.token_rewards)
        assert len(output.response_logprobs) == len(output.response_ids) and not any(output.response_mask[limit:])
        assert output.response_ids[: len(branch.output.response_ids)] == branch.output.response_ids
        assert sum(output.token_rewards) == pytest.approx(branch.reward, abs=1e-6)
        assert is_marked(output.token_rewards)


async def test_rows_keep_all_that_the_loop_returned():
    grown = await grow()
    for output, branch in zip(outputs_of(grown, CreditConfig()), grown.trajectories, strict=True):
        branch.output.extra_fields["tool_rewards"] = [0.5]
        plain = branch.output.as_dict()
        row = output.as_dict()
        assert row.keys() == plain.keys()
        assert torch.equal(row["prompts"], plain["prompts"])
        for key in ("responses", "response_mask"):
            assert torch.equal(row[key][: len(plain[key])], plain[key])
        assert not row["response_mask"][len(plain["responses"]) :].any()  # short ones get room for their credit


def test_metrics_go_with_training_steps_only_and_can_be_undone(tmp_path, monkeypatch):
    from verl.utils.tracking import Tracking

    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "log.jsonl"))
    undo = add_to_tracking(lambda: {"atpo/trees": 2.0})
    try:
        tracking = Tracking("project", "experiment", "file")
        tracking.log(data={"val-core/x": 1.0}, step=0)
        tracking.log(data={"training/global_step": 1}, step=1)
    finally:
        undo()
    tracking.log(data={"training/global_step": 2}, step=2)
    lines = [json.loads(line)["data"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [
        {"val-core/x": 1.0},
        {"training/global_step": 1, "atpo/trees": 2.0},
        {"training/global_step": 2},
    ]


def test_the_policys_words_are_told_from_the_observations():
    words = {1: "<answer>", 2: "4", 3: "found", 4: "", 5: "</answer>"}

    class Tokenizer:
        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            assert skip_special_tokens
            return "".join(words[token] for token in ids)

    output = AgentLoopOutput(
        prompt_ids=[9], response_ids=[1, 5, 4, 3, 1, 2, 5, 3], response_mask=[1, 1, 1, 0, 1, 1, 1, 0], metrics={}
    )
    assert sampled_text([output], Tokenizer()) == "<answer></answer>\n<answer>4</answer>"
