"""Recorded chains: the rows are verl's own, and the record has their turns, outcomes and GRPO's advantages."""

from __future__ import annotations

import asyncio
import operator
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
from verl.workers.rollout.replica import TokenOutput

from tests.assets.tiny_model import write_model
from tests.assets.worker import Client, Queue, Scorer, make_worker, prompt
from verl_atpo.render.explanation import explain
from verl_atpo.report.dump_reader import read_trees
from verl_atpo.report.metrics import step_metrics
from verl_atpo.rollout import chains
from verl_atpo.rollout.scope import _AgentLoopWorker

TRAIN = {"validate": False, "step": 1, "sample_index": 0, "rollout_n": 0}
N = "actor_rollout_ref.rollout.n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    return Queue(monkeypatch)


class Repeatable:
    """An engine whose answers depend on the context and on how often it was asked with it only."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[int, ...]] = Counter()

    async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: Any) -> TokenOutput:
        self.asked[tuple(prompt_ids)] += 1
        rng = random.Random(f"{prompt_ids} {self.asked[tuple(prompt_ids)]}")
        await asyncio.sleep(0)
        tokens = [rng.randrange(7, 40) for _ in range(3)]
        return TokenOutput(token_ids=tokens, log_probs=[-rng.random() for _ in tokens])


class Alternating(Scorer):
    """Rewards 1, 0, 0, 1, 0, 0, ..."""

    def __init__(self) -> None:
        self.given = 0

        def score() -> float:
            self.given += 1
            return float(self.given % 3 == 1)

        super().__init__(score)


def make(model: Path, loop: str, *overrides: str, client: Any = None, scorer: Any = None) -> Any:
    return make_worker(model, loop, f"{N}=3", *overrides, client=client, scorer=scorer or Alternating(), preset="chain")


async def run(worker: Any, loop: str = "words", trajectory: dict[str, Any] = TRAIN, **fields: Any) -> Any:
    await worker._run_prompt(prompt("p1", loop, **fields), {"temperature": 1.0}, trajectory=trajectory)
    return await worker.failures()


class ByTokens:
    """Stands for the handle of verl's reward worker; the reward depends on the response alone."""

    def __init__(self) -> None:
        async def compute_score(data: Any) -> dict[str, Any]:
            return {"reward_score": float(data.batch["responses"].sum() % 5), "reward_extra_info": {}}

        self.compute_score = SimpleNamespace(remote=compute_score)


@pytest.mark.parametrize("loop", ["words", "no_log_probs"])
async def test_rows_and_advantages_are_those_of_verls_own_sampler(
    model: Path, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    found = []
    for kind in (chains.ChainAgentLoopWorker, _AgentLoopWorker):
        queue = Queue(monkeypatch)
        worker = make(model, loop)
        own = kind(worker.config, Repeatable(), None, [ByTokens()])
        await own._run_prompt(prompt("p1", loop), {"temperature": 1.0}, trajectory=TRAIN)
        assert queue.status == {"p1": "finished"} and sorted(queue.fields) == ["p1_0_0", "p1_1_0", "p1_2_0"]
        found.append(sorted(queue.fields.values(), key=lambda row: row["responses"].tolist()))
    ours, verls = found
    for mine, theirs in zip(ours, verls, strict=True):
        # a loop that returns no log-probs gets those of the record; all else is the same
        assert set(mine.keys()) - set(theirs.keys()) <= {"rollout_log_probs"}
        for name in set(theirs.keys()) - {"metrics", "session_id"}:  # seconds; who was first
            same = torch.equal if isinstance(theirs[name], torch.Tensor) else operator.eq
            assert same(mine[name], theirs[name]), name
    assert len({row["rm_scores"].sum().item() for row in ours}) > 1
    assert torch.equal(_advantages(ours), _advantages(verls))


def _advantages(rows: list[Any]) -> torch.Tensor:
    scores = torch.stack([row["rm_scores"].sum() for row in rows]).unsqueeze(1)
    return compute_grpo_outcome_advantage(scores, torch.ones_like(scores), np.zeros(len(scores)))[0]


async def test_a_record_has_grpos_advantages_in_words(model: Path, queue: Queue, tmp_path: Path) -> None:
    """Rewards 1, 0, 0: mean 1/3, sample deviation 0.57735, so 1.15470 and twice -0.57735."""
    worker = make(model, "words", f"algorithm.atpo.dump_dir={tmp_path}")
    failures = await run(worker)
    (tree,) = read_trees(tmp_path)
    assert failures.finished == 1 and sorted(branch["reward"] for branch in tree["trajectories"]) == [0.0, 0.0, 1.0]
    assert len(tree["nodes"]) == 9 and tree["selected"] == [] and tree["root_value"] == pytest.approx(1 / 3)
    assert tree["credit"]["scheme"] == "grpo"
    for node in tree["nodes"]:
        expected = 1.1547005 if tree["trajectories"][node["trajectory"]]["reward"] else -0.5773503
        assert node["advantage"] == pytest.approx(expected, rel=1e-5)
        (words, scale) = explain(tree, node)
        assert "over 0.33, the mean reward of the tree" in words and "multiplied by 1.73" in scale
    metrics = step_metrics(await worker.take_stats())
    assert metrics["atpo/trees"] == 1 and metrics["atpo/leaves_per_tree"] == 3 and metrics["atpo/depth/mean"] == 3
    assert metrics["atpo/sampled_tokens"] == 27 and metrics["atpo/saved_tokens_share"] == 0


async def test_without_the_deviation_the_scale_is_one(model: Path, queue: Queue, tmp_path: Path) -> None:
    await run(make(model, "words", f"algorithm.atpo.dump_dir={tmp_path}", "algorithm.norm_adv_by_std_in_grpo=False"))
    (tree,) = read_trees(tmp_path)
    assert {round(node["advantage"], 6) for node in tree["nodes"]} == {0.666667, -0.333333}


async def test_advantages_of_other_estimators_are_not_guessed(model: Path, queue: Queue, tmp_path: Path) -> None:
    await run(make(model, "words", f"algorithm.atpo.dump_dir={tmp_path}", "algorithm.adv_estimator=rloo"))
    (tree,) = read_trees(tmp_path)
    assert tree["credit"]["scheme"] == "rloo" and tree["root_value"] == pytest.approx(1 / 3)
    assert all(node["advantage"] is None and not node.get("differences") for node in tree["nodes"])


class WithoutLogProbs(Client):
    async def generate(self, request_id: str, **kwargs: Any) -> TokenOutput:
        output = await super().generate(request_id, **kwargs)
        output.log_probs = None
        return output


async def test_log_probs_are_not_needed(model: Path, queue: Queue, tmp_path: Path) -> None:
    worker = make(model, "no_log_probs_asked", f"algorithm.atpo.dump_dir={tmp_path}", client=WithoutLogProbs())
    await run(worker, "no_log_probs_asked")
    (tree,) = read_trees(tmp_path)
    assert queue.status == {"p1": "finished"} and len(tree["nodes"]) == 9
    assert all(node["mean_nll"] is None and node["token_nll_centinats"] == [] for node in tree["nodes"])


async def test_turns_that_a_loop_leaves_out_are_in_the_record(model: Path, queue: Queue, tmp_path: Path) -> None:
    """The loop runs twice and returns the second run: the three turns of the first have no place in its row."""
    await run(make(model, "replaced", f"algorithm.atpo.dump_dir={tmp_path}"), "replaced")
    (tree,) = read_trees(tmp_path)
    for branch in tree["trajectories"]:
        assert branch["starts"][:3] == [branch["response_tokens"]] * 3 and branch["starts"][3] == 0


async def test_an_outage_is_run_again_and_a_lost_chain_fails_the_prompt(
    model: Path, queue: Queue, tmp_path: Path
) -> None:
    left = [2]  # outages of the first chain's first requests

    def fail() -> None:
        if left[0]:
            left[0] -= 1
            raise ConnectionError("engine gone")

    worker = make(model, "words", f"algorithm.atpo.dump_dir={tmp_path}", client=Client(fail))
    failures = await run(worker)
    (tree,) = read_trees(tmp_path)
    assert queue.status == {"p1": "finished"} and failures.finished == 1
    assert tree["regrown"] == tree["outages"] == 2


async def test_a_prompt_without_any_chain_counts_as_failed(model: Path, queue: Queue, tmp_path: Path) -> None:
    def fail() -> None:
        raise ConnectionError("engine gone")

    worker = make(model, "words", f"algorithm.atpo.dump_dir={tmp_path}", client=Client(fail))
    failures = await run(worker)
    (tree,) = read_trees(tmp_path)
    assert queue.status == {"p1": "failure"} and (failures.failed, failures.bugs) == (1, 0)
    assert "engine gone" in failures.outage and "engine gone" in tree["failed"]
    assert step_metrics(await worker.take_stats())["atpo/trees_failed"] == 1


async def test_a_bug_counts_also_after_an_outage(model: Path, queue: Queue) -> None:
    left = [2]

    def fail() -> None:
        if left[0]:
            left[0] -= 1
            raise ConnectionError("engine gone")

    worker = make(model, "missing_key", "algorithm.atpo.growth.max_regrows=0", client=Client(fail))
    failures = await run(worker, "missing_key")
    assert queue.status == {"p1": "failure"} and failures.bugs == 1 and "KeyError: 'weather'" in failures.bug


@pytest.mark.parametrize("how", [{"trajectory": {**TRAIN, "validate": True}}, {"__do_sample__": False}], ids=str)
async def test_validation_and_greedy_baselines_are_not_recorded(
    model: Path, queue: Queue, tmp_path: Path, how: dict[str, Any]
) -> None:
    worker = make(model, "words", f"algorithm.atpo.dump_dir={tmp_path}")
    failures = await run(worker, **how)
    assert failures.finished == 1 and queue.status == {"p1": "finished"} and not list(tmp_path.iterdir())


async def test_chains_that_are_scored_later_are_not_recorded(model: Path, queue: Queue, tmp_path: Path) -> None:
    worker = make_worker(model, "words", f"{N}=3", f"algorithm.atpo.dump_dir={tmp_path}", preset="chain")
    failures = await run(worker)
    assert failures.finished == 1 and len(queue.rows["p1"]) == 3 and not list(tmp_path.iterdir())
    assert "atpo/trees" not in step_metrics(await worker.take_stats())


class Versioned(Client):
    async def generate(self, request_id: str, **kwargs: Any) -> TokenOutput:
        output = await super().generate(request_id, **kwargs)
        return output.model_copy(update={"extra_fields": {"min_global_steps": 3, "max_global_steps": 4}})


async def test_a_loop_that_names_no_versions_gets_those_of_the_record(model: Path, queue: Queue) -> None:
    """verl's trainer reads them from every row, and fails on None."""
    await run(make(model, "words", client=Versioned()))
    found = [row["extra_fields"] for row in queue.fields.values()]
    assert [(each["min_global_steps"], each["max_global_steps"]) for each in found] == [(3, 4)] * 3
