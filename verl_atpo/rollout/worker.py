"""verl's agent-loop worker, with the per-prompt method replaced: a prompt becomes a tree, a tree becomes rows.

Train prompts grow a tree under verl's status protocol. Validation and greedy prompts stay chains (``chains.py``).
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from typing import Any

import transfer_queue as tq
from verl.experimental.agent_loop import AgentLoopOutput

from verl_atpo.config import ConfigError
from verl_atpo.failure import TrajectoryBug, brief
from verl_atpo.method.lengths import Lengths
from verl_atpo.method.scheme import Credit, Scheme
from verl_atpo.method.undecided import Undecided
from verl_atpo.replay.guard import CallMemo
from verl_atpo.replay.runner import Start
from verl_atpo.report.metrics import tree_stats
from verl_atpo.rollout.budget import SpareExpansions
from verl_atpo.rollout.chains import ChainAgentLoopWorker
from verl_atpo.rollout.grower import TreeGrower, grow_and_ask
from verl_atpo.rollout.rows import trajectory_rows
from verl_atpo.tree.comparison import check_tree_rows
from verl_atpo.tree.growth import GrownTree
from verl_atpo.tree.trajectory import Trajectory


class TreeAgentLoopWorker(ChainAgentLoopWorker):
    """Grows one tree per train prompt; constructor arguments are those of verl's ``AgentLoopWorkerTQ``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        weighted = type(self._scheme).scale is Scheme.scale  # a factor on the credit is one on the advantage
        self._row_means = weighted and self.config.actor_rollout_ref.actor.loss_agg_mode == "seq-mean-token-mean"
        self._spares = SpareExpansions()
        self._undecided = Undecided()
        self._lengths = Lengths()

    async def generate_sequences(self, prompts: Any) -> None:
        """Start on a batch of prompts; raises what verl_atpo's worker of chains does."""
        # Of this batch's trees, so that a step never has more rows than fixed budgets give it.
        self._spares = SpareExpansions()
        await super().generate_sequences(prompts)

    async def _run(self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool, chosen: bool) -> None:
        if trajectory["validate"] or not prompt.get("__do_sample__", True):
            await self._run_chains(prompt, sampling_params, trajectory, trace)
        else:
            await self._run_tree(prompt, sampling_params, trajectory, trace, chosen)

    async def _run_tree(self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool, chosen: bool) -> None:
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
        memo = CallMemo(self.atpo.tools.memo_size) if self._memoizes_trees else self._memo

        # Under full determinism the loop's own ids name the engine's requests, so they have to stay distinct.
        sticky = None if self.rollout_config.full_determinism else prompt["uid"]

        longest = (self.rollout_config.max_model_len or math.inf) - 1  # a request samples one token at least
        questions = self._scheme.questions(self._llm_client, self.tokenizer, prompt, longest)
        ask = None if questions is None else questions.ask

        async def run_loop(start: Start) -> Trajectory:
            kwargs = {**prompt, "trace": trace, "session_id": start.number}
            finish, check = self._score_leaf, check_tree_rows
            runner = self.runner(dict(sampling_params), trajectory, kwargs, memo, sticky, finish, check, ask)
            return await runner.trajectory(start)

        started = time.monotonic()
        earlier = self._undecided.shares, self._lengths.depths
        grower = TreeGrower(self.atpo, run_loop, random.Random(prompt["uid"]), self._spares, *earlier)
        try:
            grown = await grow_and_ask(grower, questions)
        except Exception as error:
            if chosen:
                await self._dump_tree(grower.grown, None, prompt, time.monotonic() - started, brief(error))
            raise
        credit = self._credit(grown)
        self._undecided.add(grown.tree, self.atpo.credit.tool_rewards)
        self._lengths.add(grown.tree)
        seconds = time.monotonic() - started
        self._stats.trees.append(tree_stats(grown, seconds, credit))
        made = trajectory_rows(grown, credit, self.atpo.credit.shared_turns, self._row_means)
        for number, rows in enumerate(made):
            await super()._agent_loop_postprocess(rows, False, **{**prompt, "session_id": number})
        if chosen:
            await self._dump_tree(grown, credit, prompt, seconds)

    def _credit_settings(self) -> dict[str, str] | None:
        return None

    def _credit(self, grown: GrownTree) -> Credit:
        return self._scheme.credit(grown.tree, grown.paths, grown.answers)

    async def _score_leaf(
        self, output: AgentLoopOutput | list[AgentLoopOutput], validate: bool, **kwargs: Any
    ) -> list[AgentLoopOutput]:
        """Return the outputs of a trajectory of a tree, the last one scored.

        Raises:
            TrajectoryBug: there is no reward.
        """
        outputs = output if isinstance(output, list) else [output]
        await self._compute_score(outputs, kwargs)
        outputs[-1].extra_fields.setdefault("reward_extra_info", {})
        if outputs[-1].reward_score is None:
            raise TrajectoryBug(
                "No reward is there when the agent loop ends, but a tree needs one per leaf: use a rule-based reward, "
                "or reward.reward_model.enable_resource_pool=True."
            )
        return outputs
