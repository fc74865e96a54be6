"""The task: HopQA with 2 to 6 hops, and what all arms share."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

from benchmarks.learning.arms import EIGHT_CHAINS, SEPARATE

ROOT = Path(__file__).parents[2]
HOPS = (2, 3, 4, 5, 6)
PROMPTS, MINI_BATCH, STEPS = 8, 2, 20
LEARNING_RATE = 5e-4
TEST_EVERY = 10

WARM_STARTS = Path(__file__).parent / "warm_starts"
"""Weights every run of a seed starts with. They are kept, for the same training ends elsewhere on another processor.
Other `HOPS` or another model need new ones: remove them and the results.
"""


def warm_start_file(seed: int) -> Path:
    """Return the file of a seed's warm-started weights."""
    return WARM_STARTS / f"seed{seed}.safetensors"


def preparation(data: Path, seed: int) -> list[str]:
    """Command that makes world, questions and warm-started model of a seed; what is there already stays."""
    command = [sys.executable, "-m", "examples.hopqa.prepare", "--out", str(data), "--seed", str(seed)]
    kept = warm_start_file(seed)
    return [*command, "--hops", *map(str, HOPS), *(["--weights", str(kept)] if kept.exists() else [])]


def keep_warm_start(data: Path, seed: int) -> None:
    """Keep the weights that :func:`preparation` trained, for later runs of this seed on any machine."""
    if not (kept := warm_start_file(seed)).exists():
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(data / "model" / "model.safetensors", kept)


def fingerprint(weights: Path) -> str:
    """First 16 hexadecimal digits of a file's SHA-256."""
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16]


def shared_overrides(data: Path, out: Path, seed: int) -> list[str]:
    """Arguments of `main_ppo` for all arms, on a CPU if `VERL_PLATFORM=cpu` is set.

    Args:
        data: folder of :func:`preparation`.
        out: folder of the run.
        seed: of the order of prompts and of the sampler.
    """
    rollout, actor = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"
    return [
        *("+atpo=tree", "+sampler=quick"),
        *EIGHT_CHAINS,
        *SEPARATE,
        *(["+platform=cpu"] if os.environ.get("VERL_PLATFORM") == "cpu" else []),
        f"algorithm.atpo.dump_dir={out}/trees",
        f"data.train_files={data}/train.parquet",
        f"data.val_files={data}/val.parquet",
        f"data.train_batch_size={PROMPTS}",
        f"data.seed={seed}",
        "data.max_prompt_length=40",
        "data.max_response_length=256",
        f"actor_rollout_ref.model.path={data}/model",
        f"{actor}.optim.lr={LEARNING_RATE}",
        f"{actor}.ppo_mini_batch_size={MINI_BATCH}",
        f"{actor}.ppo_micro_batch_size_per_gpu=32",
        f"{rollout}.log_prob_micro_batch_size_per_gpu=64",
        # In fp32 the engine's log-probs are those that the trainer would compute: a forward pass less.
        "algorithm.rollout_correction.bypass_mode=True",
        f"{rollout}.max_model_len=304",
        f"{rollout}.max_num_seqs=256",
        f"{rollout}.seed={seed}",
        f"{rollout}.agent.default_agent_loop=tool_agent",
        f"{rollout}.multi_turn.format=hermes",
        f"{rollout}.multi_turn.max_assistant_turns=8",
        f"{rollout}.multi_turn.function_tool_path={ROOT}/examples/hopqa/search_tool.py",
        f"{rollout}.val_kwargs.do_sample=True",
        f"{rollout}.val_kwargs.temperature=1.0",
        f"reward.custom_reward_function.path={ROOT}/examples/kit/answer_reward.py",
        "reward.custom_reward_function.name=compute_score",
        f"trainer.total_training_steps={STEPS}",
        "trainer.total_epochs=1000",
        f"trainer.test_freq={TEST_EVERY}",
        "trainer.save_freq=-1",
        "trainer.resume_mode=disable",
        "trainer.logger=[file]",
        f"trainer.default_local_dir={out}/checkpoints",
    ]
