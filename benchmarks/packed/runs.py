"""Real training, packed and not, with the same seeds: `python -m benchmarks.packed.runs --work FOLDER`.

    python -m benchmarks.packed.runs --work FOLDER [--tasks hopqa smollm2] [--seed 0] [--out FILE.json]

A task's own run script says how `main_ppo` is called (`DRY_RUN=1`); it runs once as it is and once with
`+train=packed`, both from the same weights and seeds. What a run samples still depends on which requests meet in the
engine, so rewards agree within noise only, and times are listed with the tokens they are for. A run whose metrics are
complete in FOLDER is not run again. Writes `benchmarks/results/packed_runs.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.process import ONE_THREAD, ROOT, call
from verl_atpo.report.metrics_file import Steps, read_steps

RESULT = ROOT / "benchmarks" / "results" / "packed_runs.json"
KINDS = {"rows": [], "packed": ["+train=packed"]}
ONLY_TRAINING = ["trainer.val_before_train=False", "trainer.test_freq=-1", "trainer.save_freq=-1"]
KEPT = {
    "reward": "critic/score/mean",
    "row_tokens": "perf/total_num_tokens",
    "update_actor_s": "timing_s/update_actor",
    "old_log_prob_s": "timing_s/old_log_prob",
    "step_s": "timing_s/step",
    "gradient_norm": "actor/grad_norm",
    "distinct_tokens": "packed/distinct_tokens",
}
"""Name in the result file -> verl's metric, a value a step; null where a run has none."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A task that is trained.

    Attributes:
        script: its run script.
        steps: of training.
        prompts: a step, each a tree.
        overrides: further arguments of `main_ppo`.
        one_thread: a process; else the platform shares them out.
    """

    script: str
    steps: int
    prompts: int
    overrides: tuple[str, ...] = ()
    one_thread: bool = False


TASKS = {
    "hopqa": Task("examples/quickstart.sh", 6, 8, one_thread=True),
    # Its recipe takes the engine's log-probs for the old ones; here they are computed, to be timed.
    "smollm2": Task("examples/smollm2/run.sh", 2, 2, ("algorithm.rollout_correction.bypass_mode=False",)),
}


def arguments(task: Task, data: Path, seed: int) -> list[str]:
    """Return the arguments of the task's script to `main_ppo`, with this benchmark's changes."""
    variables = {"DRY_RUN": "1", "OUT": str(data), "SEED": str(seed), "TRAIN": ""}
    variables |= {"STEPS": str(task.steps), "PROMPTS": str(task.prompts)}
    command = ["bash", task.script, *task.overrides, *ONLY_TRAINING]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def trained(name: str, kind: str, work: Path, seed: int) -> Steps:
    """The metrics of a run, which is run if they are not complete yet.

    Raises:
        RuntimeError: it failed; the message names its log.
    """
    task, data, out = TASKS[name], work / f"{name}_{seed}", work / f"{name}_{seed}_{kind}"
    metrics = out / "metrics.jsonl"
    if len(steps := read_steps(metrics)) >= task.steps:
        return steps
    out.mkdir(parents=True, exist_ok=True)
    metrics.unlink(missing_ok=True)
    variables = {
        "VERL_PLATFORM": "cpu",
        f"{name.upper()}_DIR": str(data),
        "VERL_FILE_LOGGER_PATH": str(metrics),
    }
    if task.one_thread:
        variables |= ONE_THREAD
    own = [f"algorithm.atpo.dump_dir={out}/trees", f"trainer.default_local_dir={out}/checkpoints"]
    own += [f"hydra.run.dir={out}/hydra", "trainer.resume_mode=disable"]
    prepare = ["-m", f"examples.{name}.prepare", "--out", str(data), "--seed", str(seed)]
    train = ["-m", "verl.trainer.main_ppo", *arguments(task, data, seed), *own, *KINDS[kind]]
    for command, log in ((prepare, "prepare.log"), (train, "train.log")):
        print(f"{name}, {kind}: {' '.join(command[:2])}", flush=True)
        asyncio.run(call([sys.executable, *command], out / log, variables))
    return read_steps(metrics)


def row(name: str, kind: str, steps: dict[str, list[Any]]) -> dict[str, Any]:
    """Mean reward and tokens of a run's steps, and medians of times, also per 1,000 tokens of rows.

    Two runs never sample the same number of tokens, and a shared machine has slow moments.
    """

    def per_thousand(seconds: str) -> float:
        pairs = zip(steps[seconds], steps["row_tokens"], strict=True)
        return statistics.median(1000 * each / tokens for each, tokens in pairs)

    known = [tokens for tokens in steps["distinct_tokens"] if tokens is not None]
    return {
        "task": name,
        "training": kind,
        "steps": len(steps["reward"]),
        "reward": statistics.fmean(steps["reward"]),
        "row_tokens": statistics.fmean(steps["row_tokens"]),
        "rows over distinct": f"{sum(steps['row_tokens']) / sum(known):.2f}" if known else "",
        "update_actor_s": statistics.median(steps["update_actor_s"]),
        "update_actor_s per 1,000": per_thousand("update_actor_s"),
        "old_log_prob_s": statistics.median(steps["old_log_prob_s"]),
        "old_log_prob_s per 1,000": per_thousand("old_log_prob_s"),
        "step_s": statistics.median(steps["step_s"]),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of data, models and logs")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    result = json.loads(options.out.read_text()) if options.out.is_file() else {"runs": {}}
    for name in options.tasks:
        for kind in options.kinds:
            steps = [data for _, data in trained(name, kind, options.work.absolute(), options.seed)]
            result["runs"][f"{name}, {kind}"] = {
                key: [data.get(metric) for data in steps] for key, metric in KEPT.items()
            }
            result["seed"] = options.seed
            result["rows"] = [row(*title.split(", "), found) for title, found in result["runs"].items()]
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(tabulate(result["rows"], headers="keys", tablefmt="github", floatfmt=".3f"))


if __name__ == "__main__":
    main()
