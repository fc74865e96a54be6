"""`main_ppo +atpo=a2tgpo` on a CPU: the information gains that a real vLLM server says are the model's own.

After the steps that are looked at the server is killed, which ends the run.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.assets.main_ppo import LEAVES, PROMPTS, Run, check_rewards, check_that_it_ends_without
from tests.assets.tiny_model import write_model
from tests.assets.words_loop import TURNS

STEPS = 2
SAYS = ["w1", "w2"]


def write_long_prompts(folder: Path) -> None:
    """Prompts that are longer than a block of vLLM's prefix cache, which has 128 tokens on a CPU."""
    rows = [
        {
            "data_source": "words",
            "prompt": [{"role": "user", "content": " ".join(f"w{(row + 1) * word % 40}" for word in range(140))}],
            "reward_model": {"style": "rule", "ground_truth": f"w{row} w{row + 1}"},
            "extra_info": {"index": row},
        }
        for row in range(16)
    ]
    write_model(folder / "model")
    for name in ("train", "val"):
        pd.DataFrame(rows).to_parquet(folder / f"{name}.parquet")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("a2tgpo")
    write_long_prompts(folder)
    started = Run(
        folder,
        "words_loop",
        "data.max_prompt_length=160",
        "actor_rollout_ref.rollout.max_model_len=240",
        "+atpo=a2tgpo",
        f"algorithm.atpo.information_gain.prompt='{SAYS[0]} {{answer}} {SAYS[1]}'",
        "trainer.total_training_steps=100",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "algorithm.atpo.growth.max_regrows=1",
        "algorithm.atpo.growth.regrow_delay_s=0.1",
        "actor_rollout_ref.actor.optim.lr=1e-3",
        "actor_rollout_ref.rollout.dtype=float32",
    )
    started.wait_for_step(STEPS)
    check_that_it_ends_without(started, "vLLMHttpServer")
    return started


@torch.no_grad()
def model_says(folder: Path, tree: dict[str, Any]) -> dict[int, float]:
    """Information gain of every turn that another follows, by transformers' model, one context after the other."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answer = tokenizer.encode(tree["ground_truth"], add_special_tokens=False)

    def log_prob(context: list[int]) -> float:
        ids = torch.tensor([[*context, *tokenizer.encode(SAYS[0], add_special_tokens=False), *answer]])
        scores = model(ids).logits[0, :-1].log_softmax(dim=-1).gather(1, ids[0, 1:, None])[:, 0]
        return float(scores[-len(answer) :].mean())

    contexts = {0: []}
    known = {}
    for node in tree["nodes"]:
        observed = tree["prompt"] if node["parent"] == 0 else node["observation"]
        context = contexts[node["parent"]] + tokenizer.encode(observed, add_special_tokens=False)
        known[node["index"]] = log_prob(context)
        contexts[node["index"]] = context + node["token_ids"]
    return {node["parent"]: known[node["index"]] - known[node["parent"]] for node in tree["nodes"] if node["parent"]}


@pytest.mark.e2e
def test_information_gains_are_finite_and_differ(run):
    steps = [record["data"] for record in run.steps()[:STEPS]]
    for data in steps:
        assert (data["atpo/trees"], data["atpo/leaves_per_tree"], data["atpo/trees_failed"]) == (PROMPTS, LEAVES, 0)
        assert math.isfinite(data["atpo/information_gain/mean"]) and data["atpo/information_gain/std"] > 0.002
        assert 0.2 < data["atpo/answer_cache_hit_share"] < 1
        assert data["atpo/answer_requests"] <= data["atpo/nodes_per_tree"] * PROMPTS
        assert data["atpo/answers_unknown"] == data["atpo/replays_diverged"] == 0
        assert data["actor/grad_norm"] > 0
        assert data["actor/atpo/turns_per_row"] == TURNS
        assert data["critic/advantages/max"] > data["critic/advantages/min"]
    trees = run.trees()
    for step, data in enumerate(steps, start=1):
        check_rewards(trees, step, data)
    trained = [tree for tree in trees if tree["global_step"] <= STEPS]
    gains = [node["information_gain"] for tree in trained for node in tree["nodes"] if not node["is_leaf"]]
    assert len(set(gains)) > len(gains) / 2 and all(map(math.isfinite, gains))


@pytest.mark.e2e
def test_the_servers_log_probs_are_the_models_own(run):
    """In the first step, whose weights are those of the checkpoint; what the prefix cache held changes nothing."""
    trees = [tree for tree in run.trees() if tree["global_step"] == 1]
    assert len(trees) == PROMPTS
    compared = 0
    for tree in trees:
        expected = model_says(run.folder / "model", tree)
        for node in tree["nodes"]:
            if node["is_leaf"]:
                assert node["information_gain"] is None
            else:
                assert node["information_gain"] == pytest.approx(expected[node["index"]], abs=1e-5)
                compared += 1
    assert compared >= PROMPTS * LEAVES
