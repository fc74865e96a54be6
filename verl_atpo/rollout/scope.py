"""Many runs of an agent loop inside one worker of verl's, each with an LLM client and tools of its own.

verl's worker builds a loop from its own ``llm_client`` and ``tools`` and hands the loop's output to its own
``_agent_loop_postprocess``. Here all three depend on the run that the current task belongs to, a context variable, so
that concurrent runs are isolated and verl's code is unchanged.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.divergence import describe_divergence
from verl_atpo.replay.guard import CallMemo, ToolGuard
from verl_atpo.replay.runner import LoopRunner
from verl_atpo.tools.row import own_containers, plain_message
from verl_atpo.tools.stateful import expanded
from verl_atpo.tools.tool_agent import complete_tool_agent
from verl_atpo.tree.comparison import check_chain_rows
from verl_atpo.tree.outputs import plain_outputs
from verl_atpo.tree.recording import Generation, group_turns, version_fields

logger = logging.getLogger(__name__)

# verl's module holds the class already wrapped by ray.remote; this is the class inside.
_remote: Any = AgentLoopWorkerTQ
complete_tool_agent()
_AgentLoopWorker: Any = _remote.__ray_metadata__.modified_class.__ray_actor_class__

Finish = Callable[..., Awaitable[Any]]
"""Replaces verl's ``_agent_loop_postprocess``, whose arguments it takes."""
CheckRows = Callable[[Sequence[Generation], Sequence[Any], int | None], Any]
"""Refuses rows that are not what was sampled (:mod:`verl_atpo.tree.comparison`)."""


@dataclasses.dataclass(frozen=True)
class _Run:
    client: ReplayClient
    tools: list[Any]
    finish: Finish | None
    check: CheckRows | None


_RUN: ContextVar[_Run | None] = ContextVar("verl_atpo_run", default=None)
"""The run that the current task belongs to."""


def _own(row: dict[str, Any]) -> dict[str, Any]:
    """Copy a row for one run, with the messages that the checks of the data have rendered."""
    own: dict[str, Any] = own_containers(row)
    if isinstance(own.get("raw_prompt"), list | np.ndarray):
        own["raw_prompt"] = [plain_message(message) for message in own["raw_prompt"]]
    return own


class RunScopedWorker(_AgentLoopWorker):
    """verl's worker, of which every run of an agent loop sees its own client and tools.

    Attributes:
        guard: around live tool calls; set by the subclass.
        engine_s: seconds that the engine may take for a generation; ``None`` for no limit.
        has_sampled: whether any run of a loop has asked the model so far.
    """

    guard: ToolGuard
    engine_s: float | None = None
    has_sampled: bool = False

    @property
    def llm_client(self) -> Any:
        """The client of the current run, outside of runs verl's."""
        run = _RUN.get()
        return self._llm_client if run is None else run.client

    @llm_client.setter
    def llm_client(self, client: Any) -> None:
        self._llm_client = client

    @property
    def tools(self) -> list[Any]:
        """The tools of the current run, outside of runs those that the config names."""
        run = _RUN.get()
        return self._tools if run is None else run.tools

    @tools.setter
    def tools(self, tools: list[Any]) -> None:
        self._tools = expanded(tools)

    def runner(
        self,
        sampling_params: dict,
        trajectory: dict,
        kwargs: dict,
        memo: CallMemo | None,
        request_id: str | None = None,
        finish: Finish | None = None,
        check: CheckRows | None = None,
        on_context: Callable[[list[int]], None] | None = None,
    ) -> LoopRunner:
        """Runs the agent loop of one prompt.

        Args:
            sampling_params, trajectory, kwargs: arguments of verl's ``_run_agent_loop``.
            memo: memo of calls of stateless tools, or None.
            request_id: sticky routing id; ``None`` keeps the loop's own.
            finish: handles the loop's output and returns the run's result; ``None`` leaves it to verl.
            check: checks the loop's output before that; ``None`` for the check of chains.
            on_context: called with the prompt ids of every live turn, before it is sampled.
        """
        verl_runs = super()._run_agent_loop

        async def loop(client: ReplayClient, tools: list[Any]) -> Any:
            token = _RUN.set(_Run(client, tools, finish, check))
            try:
                return await verl_runs(dict(sampling_params), trajectory=trajectory, **_own(kwargs))
            finally:
                _RUN.reset(token)

        return LoopRunner(
            self._llm_client,
            self.guard,
            loop,
            self._tools,
            request_id,
            memo,
            on_context,
            self.rollout_config.response_length,
            self.engine_s,
            str(kwargs.get("agent_name")),
        )

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> Any:
        """Pass on what the loop of the current run returned; nothing is sampled for it any more.

        Raises:
            NothingSampledError: the loop did not ask the model.
            TrajectoryBug: it is no output (:mod:`verl_atpo.tree.outputs`), or a row is not what was sampled
                (:mod:`verl_atpo.tree.comparison`).
            Exception: what ended the run, if the loop swallowed it.
        """
        run = _RUN.get()
        if run is None:
            return await super()._agent_loop_postprocess(output, validate, **kwargs)
        run.client.close()
        run.client.raise_failure()
        if run.client.diverged:
            logger.warning("%s", describe_divergence(run.client, self.tokenizer.decode))
        with run.client.activity.pause():
            return await self._finish(run, output, validate, kwargs)

    async def _finish(self, run: _Run, output: Any, validate: bool, kwargs: dict[str, Any]) -> Any:
        outputs = plain_outputs(output)
        record = run.client.generations
        self.has_sampled |= bool(record)
        (run.check or check_chain_rows)(record, outputs, self.rollout_config.response_length)
        return await (run.finish or super()._agent_loop_postprocess)(outputs, validate, **kwargs)

    async def publish(self, outputs: list[Any], validate: bool, **kwargs: Any) -> list[Any]:
        """Score and publish the outputs of a loop, as verl does; returns them, the last one scored.

        The versions of the weights, which verl's trainer needs in every row, are the record's where the loop has none.
        """
        run = _RUN.get()
        of_record = {} if run is None else version_fields(group_turns(run.client.generations))
        for output in outputs:
            for name, version in of_record.items():
                if output.extra_fields.get(name) is None:
                    output.extra_fields[name] = version
        await super()._agent_loop_postprocess(outputs, validate, **kwargs)
        return outputs
