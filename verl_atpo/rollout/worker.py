"""verl's agent-loop worker, with the per-prompt method replaced: a prompt becomes a tree, a tree becomes rows.

Only two methods of verl's worker are overridden: ``_run_prompt`` (train prompts grow a tree under verl's own status
protocol; validation and greedy prompts go on to verl) and ``_agent_loop_postprocess`` (the branch of a tree hands its
output back instead of writing it). Everything else, from building the loop to writing rows, is verl's.
"""

from __future__ import annotations

import copy
import logging
import random
import time
from collections.abc import Sequence
from typing import Any

import transfer_queue as tq
from verl.experimental.agent_loop import AgentLoopOutput
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

from verl_atpo.checks import check_config
from verl_atpo.config import ConfigError
from verl_atpo.rollout.dump import TreeDump
from verl_atpo.rollout.grower import Branch, TreeGrower
from verl_atpo.rollout.metrics import TreeStats, tree_stats
from verl_atpo.rollout.replay import BranchSession, Generation
from verl_atpo.rollout.rows import leaf_outputs
from verl_atpo.rollout.turns import group_turns, turn_starts

logger = logging.getLogger(__name__)

# verl's module holds the class already wrapped by ray.remote; this is the class inside.
_remote: Any = AgentLoopWorkerTQ
_AgentLoopWorker: Any = _remote.__ray_metadata__.modified_class.__ray_actor_class__


class TreeAgentLoopWorker(_AgentLoopWorker):
    """Grows one tree per train prompt; constructor arguments are those of verl's ``AgentLoopWorkerTQ``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.atpo = check_config(self.config)
        self._session: BranchSession | None = None
        self._stats: list[TreeStats] = []
        self._failed = 0
        self._dump = TreeDump(self.atpo.dump_dir, self.tokenizer) if self.atpo.dump_dir else None

    async def take_stats(self) -> tuple[list[TreeStats], int]:
        """Statistics of the trees finished, and number of those failed, since the last call."""
        taken = self._stats, self._failed
        self._stats, self._failed = [], 0
        return taken

    async def _run_prompt(self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool = False) -> None:
        if trajectory["validate"] or not prompt.get("__do_sample__", True):
            await super()._run_prompt(prompt, sampling_params, trajectory=trajectory, trace=trace)
            return
        uid = prompt["uid"]
        await tq.async_kv_put(key=uid, partition_id="train", tag={"status": "running"})
        try:
            await self._grow_and_publish(prompt, sampling_params, trajectory, trace)
            status = "finished"
        except Exception:
            logger.exception("The tree of prompt %s failed as a group", uid)
            self._failed += 1
            status = "failure"
        await tq.async_kv_put(key=uid, partition_id="train", tag={"status": status})

    async def _grow_and_publish(self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool) -> None:
        leaves = self.atpo.expansion.leaves
        wanted = prompt.pop("__rollout_n__", leaves)
        if wanted != leaves:
            raise ConfigError(
                f"__rollout_n__={wanted} of prompt {prompt['uid']} cannot work: a tree has exactly M + L * K = "
                f"{leaves} leaves. Leave the column out, or train this data without the tree."
            )
        prompt.pop("__do_sample__", None)

        async def run_branch(number: int, prefix: Sequence[Generation]) -> Branch:
            return await self._run_branch(number, prefix, prompt, dict(sampling_params), trajectory, trace)

        started = time.monotonic()
        grown = await TreeGrower(self.atpo, run_branch, random.Random(prompt["uid"])).grow()
        self._stats.append(tree_stats(grown, seconds=time.monotonic() - started))
        for number, output in enumerate(leaf_outputs(grown, self.atpo.credit)):
            await super()._agent_loop_postprocess(output, False, **{**prompt, "session_id": number})
        if self._dump is not None:
            await self._dump.write(grown, prompt, self.atpo.credit)

    async def _run_branch(
        self,
        number: int,
        prefix: Sequence[Generation],
        prompt: dict,
        sampling_params: dict,
        trajectory: dict,
        trace: bool,
    ) -> Branch:
        # Under full determinism the loop's own ids name the engine's requests, so they have to stay distinct.
        sticky = None if self.rollout_config.full_determinism else prompt["uid"]
        session = BranchSession(self.llm_client, sticky, prefix)
        runner = self._for_branch(session)
        output = await runner._run_agent_loop(
            sampling_params, trajectory=trajectory, trace=trace, **{**prompt, "session_id": number}
        )
        turn_starts(group_turns(session.generations), output)
        return Branch(session=session, output=output, reward=float(output.reward_score))

    def _for_branch(self, session: BranchSession) -> TreeAgentLoopWorker:
        """This worker, seen by one branch: same everything, but the branch's LLM client and tools."""
        runner = copy.copy(self)
        runner._session = session
        runner.llm_client = session
        runner.tools = session.wrap_tools(self.tools)
        return runner

    async def _agent_loop_postprocess(
        self, output: AgentLoopOutput | list[AgentLoopOutput], validate: bool, **kwargs: Any
    ) -> AgentLoopOutput | None:
        if self._session is None:
            await super()._agent_loop_postprocess(output, validate, **kwargs)
            return None
        outputs = output if isinstance(output, list) else [output]
        if len(outputs) != 1:
            raise ConfigError(
                f"The agent loop returned {len(outputs)} outputs for one trajectory; a tree needs exactly one, with "
                "the whole trajectory in it. Use +atpo=chain for this loop."
            )
        await self._compute_score(outputs, kwargs=kwargs)
        if outputs[0].reward_score is None:
            raise ConfigError(
                "No reward is there when the agent loop ends, but a tree needs one per leaf: use a rule-based reward, "
                "or reward.reward_model.enable_resource_pool=True."
            )
        return outputs[0]
