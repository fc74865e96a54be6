"""Many runs of an agent loop inside one worker of verl's, each with an LLM client and tools of its own.

verl's worker builds a loop from its own ``llm_client`` and ``tools`` and hands the loop's output to its own
``_agent_loop_postprocess``. Here all three depend on the run that the current task belongs to, a context variable, so
that runs beside one another do not meet and verl's code stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

from verl_atpo.replay.client import BranchSession
from verl_atpo.replay.guard import CallMemo, ToolGuard
from verl_atpo.replay.runner import LoopRunner

# verl's module holds the class already wrapped by ray.remote; this is the class inside.
_remote: Any = AgentLoopWorkerTQ
_AgentLoopWorker: Any = _remote.__ray_metadata__.modified_class.__ray_actor_class__

Finish = Callable[..., Awaitable[Any]]
"""What becomes of a loop's output in place of verl's; takes the arguments of ``_agent_loop_postprocess``."""


@dataclasses.dataclass(frozen=True)
class _Run:
    client: BranchSession
    tools: list[Any]
    finish: Finish | None


_RUN: ContextVar[_Run | None] = ContextVar("verl_atpo_run", default=None)
"""The run that the current task belongs to."""


class RunScopedWorker(_AgentLoopWorker):
    """verl's worker, of which every run of an agent loop sees its own client and tools.

    Attributes:
        guard: around live tool calls; set by the subclass.
    """

    guard: ToolGuard

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
        self._tools = tools

    def runner(
        self,
        sampling_params: dict,
        trajectory: dict,
        kwargs: dict,
        memo: CallMemo | None,
        request_id: str | None = None,
        finish: Finish | None = None,
        on_context: Callable[[list[int]], None] | None = None,
    ) -> LoopRunner:
        """Runs the agent loop of one prompt.

        Args:
            sampling_params, trajectory, kwargs: of verl's ``_run_agent_loop``.
            memo: for calls of stateless tools, or None.
            request_id: sticky routing id; ``None`` keeps the loop's own.
            finish: what becomes of the loop's output, its result is the run's; ``None`` leaves it to verl.
            on_context: called with the prompt ids of every live turn, before it is sampled.
        """
        verl_runs = super()._run_agent_loop

        async def loop(client: BranchSession, tools: list[Any]) -> Any:
            token = _RUN.set(_Run(client, tools, finish))
            try:
                return await verl_runs(sampling_params, trajectory=trajectory, **kwargs)
            finally:
                _RUN.reset(token)

        return LoopRunner(self._llm_client, self.guard, loop, self._tools, request_id, memo, on_context)

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> Any:
        run = _RUN.get()
        if run is not None:
            run.client.raise_failure()
        if run is None or run.finish is None:
            return await super()._agent_loop_postprocess(output, validate, **kwargs)
        return await run.finish(output, validate, **kwargs)
