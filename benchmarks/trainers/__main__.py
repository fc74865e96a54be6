"""Trainers that wait for rollouts and trainers that do not: `python -m benchmarks.trainers --work FOLDER`.

    python -m benchmarks.trainers --work FOLDER [--arms chains rounds continuous] [--modes sync colocate_async]
                                  [--steps 8] [--seed 0] [--out FILE.json] [--resume]

verl's `trainer.v1.trainer_mode`, with chains and with trees by both schedules, in real runs of `main_ppo` on the CPU
platform: an agent with three turns and a tool of 0.5 s that takes 30 times as long once in a hundred calls. Figures
are from the end of the first step to that of the last: steps a minute, and the shares of the time in which the engine
was busy, put to sleep for the training, and awake with nothing to do since all trajectories wait for tools. Writes
`benchmarks/results/trainers.json`; `--resume` keeps the rows that the file has with the same settings.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.process import ONE_THREAD, ROOT, call
from benchmarks.rollout.__main__ import small_model
from benchmarks.trainers.loop import LENGTHS, OBSERVATION, TOOL_S, TURNS
from benchmarks.trainers.notes import NOTES_ENV, shares
from verl_atpo.tiny.tokenizer import word_tokenizer

RESULT = ROOT / "benchmarks" / "results" / "trainers.json"
PROMPTS, CHAINS, BRANCHES, ROUNDS = 4, 4, 2, 2
LEAVES = CHAINS + ROUNDS * BRANCHES
ROLLOUT, EXPANSION = "actor_rollout_ref.rollout", "algorithm.atpo.expansion"
SHAPE = {"initial_chains": CHAINS, "branches_per_round": BRANCHES, "rounds": ROUNDS}
TREE = ["+atpo=tree", *(f"{EXPANSION}.{name}={value}" for name, value in SHAPE.items())]
ARMS = {
    "chains": [
        "+atpo=chain",
        f"{ROLLOUT}.n={LEAVES}",
        f"{ROLLOUT}.calculate_log_probs=True",
    ],
    "rounds": [*TREE, f"{EXPANSION}.schedule=rounds"],
    "continuous": [*TREE, f"{EXPANSION}.schedule=continuous"],
}
MODES = ("sync", "colocate_async")


def arguments(arm: str, mode: str, data: Path, out: Path, steps: int, seed: int) -> list[str]:
    """Arguments of `main_ppo`."""
    actor = "actor_rollout_ref.actor"
    longest = TURNS * LENGTHS[1] + (TURNS - 1) * len(OBSERVATION)
    return [
        *ARMS[arm],
        *("+platform=cpu", "+sampler=quick", f"trainer.v1.trainer_mode={mode}"),
        f"data.train_files={data}/train.parquet",
        f"data.val_files={data}/train.parquet",
        f"data.train_batch_size={PROMPTS}",
        "data.max_prompt_length=32",
        f"data.max_response_length={longest}",
        f"data.seed={seed}",
        f"actor_rollout_ref.model.path={data}/model",
        "actor_rollout_ref.model.external_lib=benchmarks.trainers.clock",
        f"{actor}.ppo_mini_batch_size={PROMPTS}",
        f"{actor}.ppo_micro_batch_size_per_gpu={LEAVES}",
        f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu={LEAVES}",
        f"{ROLLOUT}.max_model_len={longest + 64}",
        f"{ROLLOUT}.seed={seed}",
        f"{ROLLOUT}.agent.default_agent_loop=slow_tool",
        f"{ROLLOUT}.agent.agent_loop_config_path={ROOT}/benchmarks/trainers/loop.yaml",
        f"reward.custom_reward_function.path={ROOT}/benchmarks/trainers/loop.py",
        f"trainer.total_training_steps={steps}",
        "trainer.total_epochs=1000",
        *("trainer.val_before_train=False", "trainer.test_freq=-1", "trainer.save_freq=-1"),
        *("trainer.resume_mode=disable", 'trainer.logger=["console"]'),
        f"trainer.default_local_dir={out}/checkpoints",
        f"hydra.run.dir={out}/hydra",
        f"+ray_kwargs.ray_init.runtime_env.env_vars.{NOTES_ENV}='{out}/notes.jsonl'",
        f"+ray_kwargs.ray_init.runtime_env.env_vars.TRAINERS_SEED='{seed}'",
    ]


def prepare(data: Path) -> None:
    """A random model of 4 million parameters, and prompts."""
    import pandas as pd

    if (data / "train.parquet").exists():
        return
    (data / "model").mkdir(parents=True, exist_ok=True)
    small_model(data / "model")
    word_tokenizer(["user assistant tool"], fixed=["\n"]).save_pretrained(data / "model")  # verl wants a newline token
    rows = [
        {
            "data_source": "letters",
            "prompt": [{"role": "user", "content": f"user {number}"}],
            "reward_model": {"style": "rule", "ground_truth": ""},
            "extra_info": {"index": number},
        }
        for number in range(64)
    ]
    pd.DataFrame(rows).to_parquet(data / "train.parquet")


def trained(arm: str, mode: str, options: argparse.Namespace) -> dict[str, Any]:
    """A row of the table.

    Raises:
        RuntimeError: the run failed; the message names its log.
    """
    data, out = options.work.absolute() / "data", options.work.absolute() / f"{arm}_{mode}"
    prepare(data)
    out.mkdir(parents=True, exist_ok=True)
    notes = out / "notes.jsonl"
    notes.unlink(missing_ok=True)
    overrides = arguments(arm, mode, data, out, options.steps, options.seed)
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *overrides]
    asyncio.run(call(command, out / "train.log", {"VERL_PLATFORM": "cpu", **ONE_THREAD}))
    found = shares(map(json.loads, notes.read_text().splitlines()))
    return {
        "rollout": arm,
        "trainer": mode,
        "steps": found["steps"],
        "steps a minute": 60 * found["steps"] / found["seconds"],
        **{share: found[share] for share in ("busy", "asleep", "waiting")},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the model, data and logs")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--resume", action="store_true", help="keep what the file has")
    options = parser.parse_args()
    settings = {"prompts": PROMPTS, "leaves": LEAVES, "steps": options.steps, "seed": options.seed, "tool_s": TOOL_S}
    stands = json.loads(options.out.read_text()) if options.resume and options.out.is_file() else {}
    rows = stands["rows"] if stands.get("settings") == settings else []
    for arm in options.arms:
        for mode in options.modes:
            if not any((row["rollout"], row["trainer"]) == (arm, mode) for row in rows):
                rows.append(trained(arm, mode, options))
                rows.sort(key=lambda row: (list(ARMS).index(row["rollout"]), MODES.index(row["trainer"])))
                options.out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
                print(json.dumps(rows), flush=True)
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".2f"))


if __name__ == "__main__":
    main()
