"""verl's agent-loop worker, with the per-prompt method replaced: a prompt becomes a tree, a tree becomes rows.

Everything that is not overridden here, from building the loop to writing rows, is verl's:

- ``_run_prompt``: train prompts grow a tree under verl's status protocol; validation and greedy prompts go on to verl;
- ``_run_agent_loop``: every run gets tools of its own (``scope.py``);
- ``_compute_score``: the reward function gets the policy's own text, and its result is checked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import math
import random
import time
from typing import Any

import ray
import transfer_queue as tq
from verl.experimental.agent_loop import AgentLoopOutput

from verl_atpo.config import ConfigError, Memoize
from verl_atpo.deadlines.activity import Activity
from verl_atpo.deadlines.containment import contain_tasks
from verl_atpo.deadlines.threads import in_thread
from verl_atpo.deadlines.within import within
from verl_atpo.failure import BranchBug, NothingSampledError, brief, died_while_made, is_outage
from verl_atpo.method.lengths import Lengths
from verl_atpo.method.scheme import Credit
from verl_atpo.method.undecided import Undecided
from verl_atpo.replay.guard import CallMemo, ToolGuard
from verl_atpo.replay.runner import Start
from verl_atpo.report.describe import TreeDescriber
from verl_atpo.report.dump import TreeDump
from verl_atpo.report.metrics import WorkerStats, tree_stats
from verl_atpo.rollout.budget import SpareExpansions
from verl_atpo.rollout.grower import TreeGrower, grow_and_ask, regrowth
from verl_atpo.rollout.health.stop import Failures, describe_bug
from verl_atpo.rollout.health.watchdog import Watchdog
from verl_atpo.rollout.reward import blamed, check_reward
from verl_atpo.rollout.rows import policy_text, trajectory_rows
from verl_atpo.rollout.scope import RunScopedWorker
from verl_atpo.startup.checks import check_config, scheme_of
from verl_atpo.startup.data_checks import check_rows
from verl_atpo.tools.stateful import names_in_rows
from verl_atpo.tree.growth import GrownTree
from verl_atpo.tree.trajectory import Trajectory

logger = logging.getLogger(__name__)

HEALTH = "health"
"""Ray's concurrency group of :meth:`TreeAgentLoopWorker.failures`: a thread and an event loop of its own."""


class TreeAgentLoopWorker(RunScopedWorker):
    """Grows one tree per train prompt; constructor arguments are those of verl's ``AgentLoopWorkerTQ``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.atpo = check_config(self.config)
        self.engine_s = self.atpo.watch.engine_s
        self.guard = ToolGuard(self.atpo.tools, self.tokenizer)
        self._memo = CallMemo(self.atpo.tools.memo_size) if self.atpo.tools.memoize is Memoize.RUN else None
        self._dump = TreeDump(self.atpo.dump_dir)
        self._scheme = scheme_of(self.config)
        self._describer = TreeDescriber(self.tokenizer, self.atpo)
        self._stats = WorkerStats()
        self._failures = Failures()
        self._failed_chains: set[str] = set()
        self._watchdog: Watchdog | None = None
        self._at_work = 0
        self._spares = SpareExpansions()
        self._undecided = Undecided()
        self._lengths = Lengths()

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
        # Of this batch's trees, so that a step never has more rows than fixed budgets give it.
        self._spares = SpareExpansions()
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
        run = self._run_chains
        if not trajectory["validate"] and prompt.get("__do_sample__", True):
            run = functools.partial(self._run_tree, chosen=chosen)
        self._at_work += 1
        try:
            await run(prompt, sampling_params, trajectory, trace)
        finally:
            self._at_work -= 1

    async def _run_chains(self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool) -> None:
        """Run a prompt as verl does; it gets a terminal status for any error of its loops."""
        uid = prompt["uid"]
        try:
            await super()._run_prompt(prompt, sampling_params, trajectory=trajectory, trace=trace)
        except BaseException:  # verl publishes a status after an Exception only
            partition = "val" if trajectory["validate"] else "train"
            await tq.async_kv_put(key=uid, partition_id=partition, tag={"status": "failure"})
            raise
        if uid in self._failed_chains:
            self._failed_chains.remove(uid)
        else:
            self._failures = dataclasses.replace(self._failures, finished=self._failures.finished + 1)

    async def _run_tree(
        self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool, *, chosen: bool
    ) -> None:
        """Grow a prompt's tree and publish it; it gets a terminal status for any error of its loops."""
        uid, status = prompt["uid"], "failure"
        await tq.async_kv_put(key=uid, partition_id="train", tag={"status": "running"})
        try:
            await self._grow_and_publish(prompt, sampling_params, trajectory, trace, chosen)
            self._failures = dataclasses.replace(self._failures, finished=self._failures.finished + 1)
            status = "finished"
        except BaseException as error:
            self._stats.failed += 1
            self._note(error, prompt)  # before the trainer can see the status
            if not isinstance(error, Exception):
                raise
        finally:
            await tq.async_kv_put(key=uid, partition_id="train", tag={"status": status})

    async def _grow_and_publish(
        self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool, chosen: bool
    ) -> None:
        leaves = self.atpo.expansion.leaves
        wanted = prompt.pop("__rollout_n__", leaves)
        if wanted != leaves:
            raise ConfigError(
                f"__rollout_n__={wanted} of prompt {prompt['uid']} cannot work: a tree grows M + L * K = "
                f"{leaves} leaves. Leave the column out, or train this data without the tree."
            )
        prompt.pop("__do_sample__", None)
        memo = CallMemo(self.atpo.tools.memo_size) if self.atpo.tools.memoize is Memoize.TREE else self._memo

        # Under full determinism the loop's own ids name the engine's requests, so they have to stay distinct.
        sticky = None if self.rollout_config.full_determinism else prompt["uid"]

        longest = (self.rollout_config.max_model_len or math.inf) - 1  # a request samples one token at least
        questions = self._scheme.questions(self._llm_client, self.tokenizer, prompt, longest)
        ask = None if questions is None else questions.ask

        async def run_loop(start: Start) -> Trajectory:
            kwargs = {**prompt, "trace": trace, "session_id": start.number}
            runner = self.runner(dict(sampling_params), trajectory, kwargs, memo, sticky, self._score_leaf, ask)
            return await runner.trajectory(start)

        started = time.monotonic()
        earlier = self._undecided.shares, self._lengths.depths
        grower = TreeGrower(self.atpo, run_loop, random.Random(prompt["uid"]), self._spares, *earlier)
        try:
            grown = await grow_and_ask(grower, questions)
        except Exception as error:
            if chosen:
                await self._dump_tree(grower.grown, None, prompt, started, failed=brief(error))
            raise
        credit = self._credit(grown)
        self._undecided.add(grown.tree, self.atpo.credit.tool_rewards)
        self._lengths.add(grown.tree)
        self._stats.trees.append(tree_stats(grown, time.monotonic() - started, credit))
        for number, rows in enumerate(trajectory_rows(grown, credit, self.atpo.credit.shared_turns)):
            await super()._agent_loop_postprocess(rows, False, **{**prompt, "session_id": number})
        if chosen:
            await self._dump_tree(grown, credit, prompt, started)

    def _credit(self, grown: GrownTree) -> Credit:
        return self._scheme.credit(grown.tree, grown.paths, grown.answers)

    async def _dump_tree(
        self,
        grown: GrownTree,
        credit: Credit | None,
        prompt: dict,
        started: float,
        failed: str | None = None,
    ) -> None:
        """Dump and log a tree if the settings ask for it; no error of this makes the tree fail."""
        if not self.atpo.dump_dir and not self.atpo.log_trees:
            return
        seconds = time.monotonic() - started
        record = await self._dump.write(
            lambda: self._describer.record(grown, credit or self._credit(grown), prompt, seconds=seconds, failed=failed)
        )
        if record is not None:
            self._stats.keep(record, self.atpo.log_trees)

    async def _run_agent_loop(self, sampling_params: dict, trajectory: dict, **kwargs: Any) -> None:
        """Run a chain as verl does, but with tools of its own, and again after an outage."""
        runner = self.runner(sampling_params, trajectory, kwargs, self._memo)
        try:
            await regrowth(self.atpo.growth).call(lambda: runner.run(Start()))
        except Exception as error:
            uid = kwargs["uid"]
            if uid not in self._failed_chains:
                self._failed_chains.add(uid)
                self._note_chain(error, kwargs)
            raise  # verl fails the prompt

    def _note_chain(self, error: Exception, prompt: dict) -> None:
        """Keep the first error of a prompt's chains; an outage is only logged, for the others may be trained on."""
        if is_outage(error) and not died_while_made(error) and not isinstance(error, NothingSampledError):
            logger.error("A trajectory of prompt %s failed, of an outage: %s", prompt["uid"], brief(error))
        else:
            self._note(error, prompt)

    async def _score_leaf(
        self, output: AgentLoopOutput | list[AgentLoopOutput], validate: bool, **kwargs: Any
    ) -> list[AgentLoopOutput]:
        """Return the outputs of a trajectory of a tree, the last one scored.

        Raises:
            BranchBug: there is no reward.
        """
        outputs = output if isinstance(output, list) else [output]
        await self._compute_score(outputs, kwargs)
        outputs[-1].extra_fields.setdefault("reward_extra_info", {})
        if outputs[-1].reward_score is None:
            raise BranchBug(
                "No reward is there when the agent loop ends, but a tree needs one per leaf: use a rule-based reward, "
                "or reward.reward_model.enable_resource_pool=True."
            )
        return outputs

    async def _compute_score(self, outputs: list[AgentLoopOutput], kwargs: dict) -> None:
        """Score a trajectory; a reward function finds the policy's own words in ``extra_info["policy_text"]``.

        verl hands it the decoded response, observations included, which does not mark its authors reliably.

        Raises:
            ConfigError: verl has no reward for the data source, or its reward worker died while it was made.
            BranchBug: the reward function raised, or returned what is no finite number.
            Exception: an outage.
        """
        fields = outputs[-1].extra_fields
        fields["policy_text"] = await in_thread(policy_text, outputs, self.tokenizer)
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
