"""Runs of one seed, one after the other, in one Ray cluster with one trainer and one vLLM server.

    python -m benchmarks.learning.session --seed 0 --arms grpo atpo --work FOLDER --results FOLDER

All parts are verl's own, as `main_ppo` makes them. Between two runs the trainer gets the next arm's config, loss,
replay buffer, rollout workers and data order, and the weights and optimizer state it started with.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.utils.tracking import Tracking
from verl.workers.utils.losses import ppo_loss

from benchmarks import runs as table_of_runs
from benchmarks.learning.arms import ALL
from benchmarks.learning.results import record
from benchmarks.learning.task import fingerprint, shared_overrides
from tests.assets.recipe_configs import compose_arguments
from verl_atpo.report.metrics_file import read_steps
from verl_atpo.startup.checks import check_config

TaskRunner = TaskRunnerV1.__ray_metadata__.modified_class
"""verl's runner, without Ray's wrapper."""


@dataclasses.dataclass(frozen=True)
class ComposedRun:
    """A run, ready to train.

    Attributes:
        arm, seed: which run.
        config: verl's whole config.
        metrics: file for verl's metrics.
        results: table that its record is appended to.
    """

    arm: str
    seed: int
    config: DictConfig
    metrics: Path
    results: Path


class Session(TaskRunner):
    """In the place of verl's runner: trains one config after the other.

    Args:
        runs: one after the other.
    """

    def __init__(self, runs: Sequence[ComposedRun]) -> None:
        super().__init__()
        self._runs = runs

    def run(self, config: DictConfig) -> None:
        """Train all runs; `config` is the first one's."""
        import transfer_queue
        from verl.trainer.ppo.v1 import get_trainer_cls

        transfer_queue.init(config.transfer_queue)
        try:
            self.trainer = get_trainer_cls(config.trainer.v1.trainer_mode)(config=config)
            self.trainer.init()
            start = f"{config.trainer.default_local_dir}/start"
            self.trainer.actor_rollout_wg.save_checkpoint(start)
            for run in self._runs:
                self._train(run, start)
        finally:
            transfer_queue.close()

    def _train(self, run: ComposedRun, start: str) -> None:
        began, log = time.monotonic(), Tracking.log
        self._reset(run.config, start)
        run.metrics.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(run.config.algorithm.atpo.dump_dir, ignore_errors=True)  # trees of a try that was stopped
        os.environ["VERL_FILE_LOGGER_PATH"] = str(run.metrics)
        self.init_agent_loop_manager()
        try:
            self.trainer.fit(self.agent_loop_manager)
            self.trainer.logger.finish(exit_code=0)
        finally:
            Tracking.log = log  # the manager's wrapper goes with the manager
            for worker in self.agent_loop_manager.agent_loop_workers:
                ray.kill(worker)
        content = record(run.arm, run.seed, ALL[run.arm].overrides, read_steps(run.metrics), time.monotonic() - began)
        content["warm_start"] = fingerprint(Path(run.config.actor_rollout_ref.model.path) / "model.safetensors")
        table_of_runs.append(run.results, content)

    def _reset(self, config: DictConfig, start: str) -> None:
        """The state in which `main_ppo` would begin with this config."""
        trainer = self.trainer
        self.config = trainer.config = config
        trainer.replay_buffer = trainer._build_replay_buffer()
        trainer._init_dataloader()
        trainer._init_dump_executor()
        actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
        trainer.actor_rollout_wg.set_loss_fn(functools.partial(ppo_loss, config=actor))
        trainer.checkpoint_manager.sleep_replicas()
        trainer.actor_rollout_wg.load_checkpoint(start)
        trainer.global_steps = 0
        trainer.on_init_end()  # sends the weights to the rollout


def composed(arm: str, seed: int, work: Path, results: Path) -> ComposedRun:
    """A run with verl's whole config, checked."""
    out = work / f"{arm}_{seed}"
    overrides = [*shared_overrides(work / f"seed{seed}", out, seed), *ALL[arm].overrides]
    config = compose_arguments([*overrides, f"trainer.experiment_name={arm}_{seed}"])
    validate_config(config, use_reference_policy=False, use_critic=False)
    check_config(config)
    config.transfer_queue.enable = True
    OmegaConf.resolve(config)
    return ComposedRun(arm, seed, config, out / "metrics.jsonl", results.absolute())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning.session", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--arms", nargs="+", required=True, choices=ALL, metavar="ARM")
    parser.add_argument("--work", type=Path, required=True, help="folder of models and logs")
    parser.add_argument("--results", type=Path, required=True, help="table of finished runs")
    options = parser.parse_args()
    runs = [composed(arm, options.seed, options.work.absolute(), options.results) for arm in options.arms]
    # run_ppo makes its runner by `.remote()`, without arguments.
    runner: Any = SimpleNamespace(remote=lambda: ray.remote(num_cpus=1)(Session).remote(runs))
    run_ppo(runs[0].config, task_runner_class=runner)


if __name__ == "__main__":
    main()
