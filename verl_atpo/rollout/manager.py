"""The managers that replace verl's sampler, by ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import ray
from omegaconf import DictConfig
from tensordict import TensorDict
from verl.trainer.ppo.v1 import AgentLoopManagerTQ

from verl_atpo.report.console import Console
from verl_atpo.report.dump_choice import DumpChoice
from verl_atpo.report.loggers import log_trees
from verl_atpo.report.metrics import WorkerStats, step_metrics
from verl_atpo.report.record import Record
from verl_atpo.report.tracking import add_to_tracking, keep_metrics_files
from verl_atpo.report.validation_extras import average_numbers_only
from verl_atpo.rollout.chains import HEALTH, ChainAgentLoopWorker
from verl_atpo.rollout.health.alarm import UselessSteps
from verl_atpo.rollout.health.dead_workers import WorkerWatch
from verl_atpo.rollout.health.selection_hint import SelectionHint
from verl_atpo.rollout.health.stop import RunStopped, StopRule, check_while_polling
from verl_atpo.rollout.worker import TreeAgentLoopWorker
from verl_atpo.startup.checks import check_agent_names, check_config, scheme_of
from verl_atpo.startup.opening import closing_lines, opening_lines
from verl_atpo.startup.resume import resumed_step, total_steps

USELESS = "atpo/useless_steps"
"""Metric: training steps in a row that taught nothing."""


class ChainAgentLoopManager(AgentLoopManagerTQ):
    """verl's agent-loop manager with workers that record their trajectories; arguments are those of verl's.

    Raises:
        ConfigError: a setting cannot work; says which and what to set.
    """

    worker: ClassVar[type[ChainAgentLoopWorker]] = ChainAgentLoopWorker
    grows_trees: ClassVar[bool] = False

    def __init__(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        self._atpo = check_config(config)
        self._scheme = scheme_of(config) if self.grows_trees else None
        super().__init__(config, *args, **kwargs)
        remote: Any = ray.remote  # Ray's stubs leave concurrency groups out
        self.agent_loop_workers_class = remote(concurrency_groups={HEALTH: 2})(self.worker)
        self._watch = WorkerWatch(self._atpo.watch.limit_s)
        self._stop_rule = StopRule(config.data.train_batch_size, self._atpo.growth.max_bugs)
        self._choice = DumpChoice(self._atpo.dump_every, self._atpo.dump_max)
        self._records: list[Record] = []
        self._useless = UselessSteps(self.grows_trees)
        self._hint = SelectionHint(self._atpo.expansion)
        opening, closing = opening_lines(config, self._atpo), closing_lines(config, self._atpo)
        self._console = Console(lambda: total_steps(config), opening, closing)
        show = self._show_trees if self._atpo.log_trees else None
        add_to_tracking(self.take_metrics, show, self._console.follow)
        average_numbers_only()
        keep_metrics_files(resumes=resumed_step(config) is not None)
        check_while_polling(self.check_failures)

    def generate_sequences(self, prompts: TensorDict) -> None:
        """Hand a batch of prompts to the workers without waiting for its trees.

        Raises:
            RunStopped: earlier trees had bugs or outages only, or a worker is stuck.
        """
        self.check_failures()
        if self.grows_trees:
            default = self.rollout_config.agent.default_agent_loop
            check_agent_names(set(prompts["agent_name"]) if "agent_name" in prompts else {default})
        self._choice.mark(prompts)
        if "validate" not in prompts:
            self._console.open()
        workers: list[Any] = self.agent_loop_workers
        for worker, chunk in zip(workers, prompts.chunk(len(workers)), strict=False):  # as verl distributes them
            self._watch.hold(worker, chunk["uid"])
        with self._names_the_stuck_worker():
            super().generate_sequences(prompts)

    def check_failures(self) -> None:
        """Collect the workers' failures.

        Raises:
            RunStopped: the run has to end (:class:`StopRule`), or a worker is stuck.
        """
        if self._watch.stuck is not None:
            raise RunStopped(self._watch.stuck)
        workers: list[Any] = self.agent_loop_workers
        with self._names_the_stuck_worker():
            self._stop_rule.check(ray.get([worker.failures.remote() for worker in workers]))

    @contextlib.contextmanager
    def _names_the_stuck_worker(self) -> Iterator[None]:
        """Replace Ray's error for a worker that the watch had to end by the reason."""
        try:
            yield
        except ray.exceptions.RayActorError:
            if self._watch.stuck is None:
                raise
            raise RunStopped(self._watch.stuck) from None

    def take_metrics(self) -> dict[str, float]:
        """Metrics of the trees that finished since the last call."""
        workers: list[Any] = self.agent_loop_workers
        stats = WorkerStats()
        with self._names_the_stuck_worker():
            for taken in ray.get([worker.take_stats.remote() for worker in workers]):
                stats.add(taken)
        self._records = stats.records
        metrics = step_metrics(stats, self._scheme)
        self._hint.look(metrics)
        return {**metrics, USELESS: float(self._useless.look(stats))}

    def _show_trees(self, backends: dict[str, Any], step: int) -> None:
        """Log the most informative trees of the step, in the loggers that can show any."""
        log_trees(backends, self._records, step, self._atpo.log_trees)


class TreeAgentLoopManager(ChainAgentLoopManager):
    """verl's agent-loop manager with workers that grow trees; arguments are those of verl's.

    Raises:
        ConfigError: a setting cannot work with trees; says which and what to set.
    """

    worker = TreeAgentLoopWorker
    grows_trees = True
