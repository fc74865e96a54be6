"""verl's asynchronous trainers: generations are stopped for new weights and go on with them; trees stay whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.assets.long_loop import NOTES_ENV
from tests.assets.main_ppo import PROMPTS, Run, check_trees_of_a_step


@pytest.mark.e2e
def test_weights_change_while_trees_grow(tmp_path):
    """``separate_async``: weights change inside trees, log-probs stay the sampled ones, stale ones drop."""
    steps, oldest = 4, 2
    notes = tmp_path / "generations.jsonl"
    run = Run(
        tmp_path,
        "long_loop",
        "data.max_response_length=192",
        "actor_rollout_ref.rollout.max_model_len=224",
        "trainer.v1.trainer_mode=separate_async",
        "trainer.v1.separate_async.parameter_sync_step=1",
        "trainer.v1.separate_async.num_warmup_batches=2",
        "trainer.v1.sampler.max_off_policy_strategy=drop",
        f"trainer.v1.sampler.max_off_policy_threshold={oldest}",
        "actor_rollout_ref.rollout.nnodes=1",
        "actor_rollout_ref.actor.optim.lr=0.02",
        'actor_rollout_ref.actor.checkpoint.save_contents=["model","optimizer","extra","hf_model"]',
        f"trainer.rollout_data_dir={tmp_path}/rows",
        f"trainer.total_training_steps={steps}",
        "trainer.save_freq=1",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        environment={NOTES_ENV: str(notes), "OMP_NUM_THREADS": "1"},
    )
    assert run.wait() == 0, run.log[-5000:]
    assert run.left_over() == []

    logged = {record["step"]: record["data"] for record in run.steps()}
    assert list(logged) == list(range(1, steps + 1))
    trained = set.union(*(check_trees_of_a_step(run, step, data) for step, data in logged.items()))
    assert len(trained) == PROMPTS * steps
    grown = {tree["uid"]: tree for tree in run.trees()}
    for step in logged:
        assert all(step - grown[uid]["global_step"] < oldest for uid in run.rows(step))
    assert sum(data.get("training/off_policy/evicted_samples", 0) for data in logged.values()) >= PROMPTS

    generations = [json.loads(line) for line in notes.read_text().splitlines()]
    check_log_probs(generations, [tmp_path / "model", *(saved(tmp_path, step) for step in logged)])
    noted = {(tuple(each["versions"]), len(each["token_ids"]), mean_nll(each)) for each in generations}
    turns = [turn for tree in grown.values() for turn in tree["nodes"]]
    assert turns and all((tuple(each["versions"]), each["tokens"], each["mean_nll"]) in noted for each in turns)
    # Whether one generation is stopped in its middle is the machine's affair; that weights change inside trees is not.
    spans = [[turn["versions"] for turn in tree["nodes"]] for tree in grown.values()]
    assert any(min(old for old, _ in span) < max(new for _, new in span) for span in spans)


@pytest.mark.e2e
def test_trees_wait_while_the_trainer_trains_and_over_a_restart(tmp_path):
    """``colocate_async``, taken up again from a checkpoint: no tree is lost or trained twice, stale ones drop whole."""
    half, oldest = 2, 2
    trained: dict[int, set[str]] = {}
    for begin, end in ((0, half), (half, 2 * half)):
        run = Run(
            tmp_path,
            "words_loop",
            "trainer.v1.trainer_mode=colocate_async",
            "trainer.v1.colocate_async.num_warmup_batches=2",
            "trainer.v1.sampler.max_off_policy_strategy=drop",
            f"trainer.v1.sampler.max_off_policy_threshold={oldest}",
            f"trainer.rollout_data_dir={tmp_path}/rows",
            f"trainer.total_training_steps={end}",
            "trainer.save_freq=1",
            "trainer.val_before_train=False",
            "trainer.test_freq=-1",
        )
        assert run.wait() == 0, run.log[-5000:]
        assert run.left_over() == []
        logged = {record["step"]: record["data"] for record in run.steps()}
        assert list(logged) == list(range(begin + 1, end + 1))
        trained |= {step: check_trees_of_a_step(run, step, data) for step, data in logged.items()}
        assert all(data["actor/grad_norm"] > 0 for data in logged.values())
        assert sum(data.get("atpo/trees", 0) for data in logged.values()) >= PROMPTS

    ever = set.union(*trained.values())
    assert len(ever) == PROMPTS * 2 * half
    waiting, left = run.waiting(half), run.waiting(2 * half)
    assert waiting and not waiting & (trained[1] | trained[2]) and not left & ever
    handed_out = {tree["uid"]: tree["global_step"] for tree in run.trees()}
    assert all(step - handed_out[uid] < oldest for step, uids in trained.items() for uid in uids)
    assert all(2 * half - handed_out[uid] >= oldest for uid in waiting - ever - left)  # dropped because they are stale
    assert sum(data.get("training/off_policy/evicted_samples", 0) for data in logged.values()) > 0


def saved(folder: Path, step: int) -> Path:
    """A checkpoint's weights as a Hugging Face model."""
    return folder / "checkpoints" / f"global_step_{step}" / "actor" / "huggingface"


def mean_nll(generation: dict[str, Any]) -> float:
    return -sum(generation["log_probs"]) / len(generation["log_probs"])


def check_log_probs(generations: list[dict[str, Any]], models: list[Path]) -> None:
    """Each token's log-prob is that of one version of the weights, none older than the token's before it."""
    loaded = [AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32) for model in models]
    used = set()
    for generation in generations:
        first, last = generation["versions"]
        said = torch.tensor(generation["log_probs"])
        right = torch.stack(
            [(log_probs(loaded[version], generation) - said).abs() < 1e-3 for version in range(first, last + 1)]
        )
        version = 0
        for token in right.T:
            while version < len(token) and not token[version]:
                version += 1
            assert version < len(token), f"a log-prob of no version from {first} to {last}"
            used.add(first + version)
    assert len(used) > 1


@torch.no_grad()
def log_probs(model: PreTrainedModel, generation: dict[str, Any]) -> torch.Tensor:
    """What a model says of a generation's tokens, shape (tokens,)."""
    prompt, tokens = generation["prompt_ids"], generation["token_ids"]
    logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
