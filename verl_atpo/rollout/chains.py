"""verl's agent-loop worker for independent trajectories: guarded, watched, retried after outages, and recorded.

verl runs and publishes a prompt's trajectories; its rows and its status protocol stay as they are. Overridden are

- ``_run_prompt``: a prompt gets a terminal status for any error of its loops, and its trajectories are recorded;
- ``_run_agent_loop``: every run gets tools of its own (``scope.py``);
- ``_compute_score``: the reward function gets the policy's own text, and its result is checked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from contextvars import ContextVar
from typing import Any

import ray
import transfer_queue as tq
from verl.experimental.agent_loop import AgentLoopOutput

from verl_atpo.config import ConfigError, Memoize
from verl_atpo.deadlines.activity import Activity
from verl_atpo.deadlines.containment import contain_tasks
from verl_atpo.deadlines.threads import in_thread
from verl_atpo.deadlines.within import within
from verl_atpo.failure import NothingSampledError, brief, died_while_made, is_outage
from verl_atpo.method.scheme import Credit
from verl_atpo.replay.guard import CallMemo, ToolGuard
from verl_atpo.replay.runner import Start
from verl_atpo.report.describe import TreeDescriber
from verl_atpo.report.dump import TreeDump
from verl_atpo.report.metrics import WorkerStats, tree_stats
from verl_atpo.rollout.chain_group import ChainGroup, chain_credit
from verl_atpo.rollout.grower import regrowth
from verl_atpo.rollout.health.stop import Failures, describe_bug
from verl_atpo.rollout.health.watchdog import Watchdog
from verl_atpo.rollout.reward import blamed, check_reward
from verl_atpo.rollout.rows import sampled_text
from verl_atpo.rollout.scope import RunScopedWorker
from verl_atpo.startup.checks import check_config, scheme_of
from verl_atpo.startup.data_checks import check_rows
from verl_atpo.startup.verl_config import ESTIMATOR, get
from verl_atpo.tools.stateful import names_in_rows
from verl_atpo.tree.growth import GrownTree

logger = logging.getLogger(__name__)

HEALTH = "health"
"""Ray's concurrency group of :meth:`ChainAgentLoopWorker.failures`: a thread and an event loop of its own."""

BY_STD = "algorithm.norm_adv_by_std_in_grpo"
CREDIT_OF_CHAINS = {"backup": "leaf_mean", "advantage": "value", "contexts": "separate", "normalize": "zscore"}
"""Records of chains in the terms of ``algorithm.atpo.credit``: every turn has the value of its trajectory."""

_GROUP: ContextVar[ChainGroup | None] = ContextVar("verl_atpo_chains", default=None)
"""The prompt whose trajectory the current task runs."""


class ChainAgentLoopWorker(RunScopedWorker):
    """Samples independent trajectories; constructor arguments are those of verl's ``AgentLoopWorkerTQ``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.atpo = check_config(self.config)
        self.engine_s = self.atpo.watch.engine_s
        self.guard = ToolGuard(self.atpo.tools, self.tokenizer)
        self._memo = CallMemo(self.atpo.tools.memo_size) if self.atpo.tools.memoize is Memoize.RUN else None
        self._dump = TreeDump(self.atpo.dump_dir)
        self._scheme = scheme_of(self.config)
        self._estimator = str(get(self.config, ESTIMATOR))
        self._describer = TreeDescriber(self.tokenizer, self.atpo, self._credit_settings())
        self._memoizes_trees = self.atpo.tools.memoize is Memoize.TREE
        self._stats = WorkerStats()
        self._failures = Failures()
        self._watchdog: Watchdog | None = None
        self._at_work = 0

    @ray.method(concurrency_group=HEALTH)
    async def failures(self) -> Failures:
        """Report what failed since the start, on an event loop of its own, also while the worker's is blocked."""
        watchdog = self._watchdog
        stuck = None if watchdog is None else watchdog.stuck
        return self._failures if stuck is None else dataclasses.replace(self._failures, fatal=stuck, stuck=True)

    def _note(self, error: BaseException, prompt: dict) -> None:
        """Record the error of a failed prompt, and log it: of bugs the first with its traceback."""
        noted = self._failures
        uid = prompt.get("uid")
        if isinstance(error, ConfigError) or died_while_made(error):
            self._failures = dataclasses.replace(noted, fatal=noted.fatal or describe_bug(error, prompt))
        # A loop that has never asked the model is not expected to do so after an outage.
        elif is_outage(error) and (self.has_sampled or not isinstance(error, NothingSampledError)):
            self._failures = dataclasses.replace(noted, failed=noted.failed + 1, outage=brief(error))
            logger.error("Prompt %s failed as a group, of an outage: %s", uid, brief(error))
            return
        else:
            self._failures = dataclasses.replace(
                noted, bugs=noted.bugs + 1, bug=noted.bug or describe_bug(error, prompt)
            )
        first = noted.bug is None and noted.fatal is None
        logger.error("Prompt %s failed as a group: %s", uid, brief(error), exc_info=error if first else None)

    async def take_stats(self) -> WorkerStats:
        """Hand over the statistics since the last call."""
        taken, self._stats = self._stats, WorkerStats()
        taken.tools = self.guard.take_totals()
        taken.dump_seconds, self._dump.seconds = self._dump.seconds, 0.0
        return taken

    async def generate_sequences(self, prompts: Any) -> None:
        """Start on a batch of prompts, without waiting for them.

        Raises:
            ConfigError: a row that cannot be trained or validated on; says which, and what to do.
        """
        schemas = [tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True) for tool in self.tools]
        names = [name for tool in self.tools for name in names_in_rows(tool)]
        check_rows(prompts, self.config, self.tokenizer, names, schemas, self.processor is not None)
        self._scheme.check_prompts(prompts)
        await super().generate_sequences(prompts)

    def _watch(self) -> None:
        """Contain the tasks of the current event loop, and watch it; may be called again."""
        loop = asyncio.get_running_loop()
        if self._watchdog is None or self._watchdog.loop is not loop:
            contain_tasks(loop)
            self._watchdog = Watchdog(self.atpo.watch, loop, lambda: self._at_work > 0)
            self._watchdog.start()

    async def _run_prompt(self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool = False) -> None:
        self._watch()
        chosen = self._dump.takes(prompt)
        self._at_work += 1
        try:
            await self._run(prompt, sampling_params, trajectory, trace, chosen)
        finally:
            self._at_work -= 1

    async def _run(self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool, chosen: bool) -> None:
        """Run a prompt as verl does, and record it if it is trained on.

        Args:
            prompt, sampling_params, trajectory, trace: arguments of verl's ``_run_prompt``.
            chosen: whether its record is dumped.
        """
        trains = not trajectory["validate"] and prompt.get("__do_sample__", True)
        given = dict(prompt)
        group = await self._run_chains(prompt, sampling_params, trajectory, trace, records=trains)
        if trains:
            await self._record(group, given, chosen)

    async def _run_chains(
        self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool, records: bool = False
    ) -> ChainGroup:
        """Run a prompt as verl does; it gets a terminal status for any error of its loops."""
        uid, sizes = prompt["uid"], self.rollout_config
        size = prompt.get("__rollout_n__", sizes.val_kwargs.n if trajectory["validate"] else sizes.n)
        memo = CallMemo(self.atpo.tools.memo_size) if self._memoizes_trees else self._memo
        group = ChainGroup(size, memo, records)
        current = _GROUP.set(group)
        try:
            await super()._run_prompt(prompt, sampling_params, trajectory=trajectory, trace=trace)
        except BaseException:  # verl publishes a status after an Exception only
            partition = "val" if trajectory["validate"] else "train"
            await tq.async_kv_put(key=uid, partition_id=partition, tag={"status": "failure"})
            raise
        finally:
            _GROUP.reset(current)
        if group.error is None:
            self._failures = dataclasses.replace(self._failures, finished=self._failures.finished + 1)
        return group

    async def _record(self, group: ChainGroup, prompt: dict, chosen: bool) -> None:
        """Count and dump the trajectories of a prompt."""
        failed, grown, seconds = None if group.error is None else brief(group.error), group.grown, group.seconds
        if failed is not None:
            self._stats.failed += 1
        elif not grown.trajectories:
            return  # they are scored later
        else:
            teaches = len(set(grown.outcomes)) > 1
            self._stats.trees.append(dataclasses.replace(tree_stats(grown, seconds), teaches=teaches))
        if chosen:
            await self._dump_tree(grown, None, prompt, seconds, failed)

    def _credit(self, grown: GrownTree) -> Credit:
        """Compute the credit that records show."""
        return chain_credit(grown, self._estimator, bool(get(self.config, BY_STD)))

    async def _dump_tree(
        self, grown: GrownTree, credit: Credit | None, prompt: dict, seconds: float, failed: str | None = None
    ) -> None:
        """Dump and log a tree if the settings ask for it; no error of this makes the tree fail."""
        if not self.atpo.dump_dir and not self.atpo.log_trees:
            return
        record = await self._dump.write(
            lambda: self._describer.record(grown, credit or self._credit(grown), prompt, seconds=seconds, failed=failed)
        )
        if record is not None:
            self._stats.keep(record, self.atpo.log_trees)

    async def _run_agent_loop(self, sampling_params: dict, trajectory: dict, **kwargs: Any) -> None:
        """Run a chain as verl does, but with tools of its own, and again after an outage."""
        growth, group = self.atpo.growth, _GROUP.get()
        assert group is not None, "verl runs trajectories of prompts only"
        rollout = group.begin(kwargs["session_id"])
        runner = self.runner(sampling_params, trajectory, kwargs, group.memo, finish=self.publish)

        async def run() -> None:
            session, outputs = await runner.run(Start(on_sampled=rollout.count))
            group.end(rollout, session, outputs, self.rollout_config.response_length)

        try:
            await regrowth(growth).call(run, lambda error, attempts: rollout.failures.append(error))
        except Exception as error:
            self._note_chain(group, error, kwargs)
            raise  # verl fails the prompt

    def _note_chain(self, group: ChainGroup, error: Exception, prompt: dict) -> None:
        """Keep the first bug of a prompt's chains; of outages only those that leave none of the chains."""
        group.failed += 1
        group.error = group.error or error
        outage = is_outage(error) and not died_while_made(error) and not isinstance(error, NothingSampledError)
        if outage and group.failed < group.size:
            logger.error("A trajectory of prompt %s failed, of an outage: %s", prompt["uid"], brief(error))
        elif not group.has_bug:
            group.error, group.has_bug = error, not outage
            self._note(error, prompt)

    def _credit_settings(self) -> dict[str, str] | None:
        """Return what records say about the credit; ``None`` for the settings of ``algorithm.atpo.credit``."""
        return {"scheme": self._estimator, **CREDIT_OF_CHAINS}

    async def _compute_score(self, outputs: list[AgentLoopOutput], kwargs: dict) -> None:
        """Score a trajectory; a reward function finds the policy's own words in ``extra_info["policy_text"]``.

        verl hands it the decoded response, observations included, which does not mark its authors reliably.

        Raises:
            ConfigError: verl has no reward for the data source, or its reward worker died while it was made.
            TrajectoryBug: the reward function raised, or returned what is no finite number.
            Exception: an outage.
        """
        fields = outputs[-1].extra_fields
        fields["policy_text"] = await in_thread(sampled_text, outputs, self.tokenizer)
        computed = outputs[-1].reward_score is None and self.reward_loop_worker_handles is not None
        watched = Activity("The reward function, which runs in verl's RewardLoopWorker,", watched=True)
        try:
            await within(None, watched, super()._compute_score(outputs, kwargs))
        except Exception as error:
            named = blamed(error, kwargs.get("data_source"))
            if named is error:
                raise
            raise named from error
        finally:
            del fields["policy_text"]
        check_reward(outputs[-1], computed)
