"""verl's agent loop that runs any agent against an endpoint in front of the policy."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Coroutine, Mapping
from typing import Any
from uuid import uuid4

from omegaconf import DictConfig, OmegaConf
from verl.experimental.agent_loop import AgentLoopBase, AgentLoopOutput
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics
from verl.experimental.agent_loop.tool_parser import ToolParser

from verl_atpo.failure import ToolOutage, TrajectoryBug
from verl_atpo.gateway.agents import Access, AgentCrash, Task, make_agent
from verl_atpo.gateway.answers import AnswerReader
from verl_atpo.gateway.context import ContextBuilder
from verl_atpo.gateway.rows import row_outputs
from verl_atpo.gateway.service import Service, service_of
from verl_atpo.gateway.settings import KEY, GatewayConfig, OnCrash
from verl_atpo.gateway.trajectory import Ignored, Sampling, Trajectory
from verl_atpo.gateway.workspaces import workspace_of
from verl_atpo.report.loop_metrics import LOOP_METRICS

logger = logging.getLogger(__name__)

AGENT_COLUMN = "agent"
"""Column of a data row that may name its agent's function."""
MOST_STARTS = 3
"""Starts of an agent that is killed from outside before it asks the model."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """End of an agent's run.

    Attributes:
        result: its return value.
        crash: last output of a crashed agent.
        killed: the crash came from outside.
        late: it was ended because its time was up.
    """

    result: Any = None
    crash: str | None = None
    killed: bool = False
    late: bool = False


class GatewayAgentLoop(AgentLoopBase):
    """Runs an agent that knows a base URL and a key; returns a row per stretch of calls that only append.

    Arguments are those of verl's ``AgentLoopBase``, and:

    Args:
        agent: function to run, in the place of the one in the settings; an entry of a user's own loops file may name
            it.
    """

    def __init__(self, *args: Any, tools: Any = None, agent: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._agent = agent
        self._settings = gateway_config(self.config)

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> Any:
        """Run the agent once.

        Returns:
            An ``AgentLoopOutput``, or a list of them where the agent's calls do not all append to one context.

        Raises:
            TrajectoryBug: it never asked the model, crashed where that stops the run, or its reward is no number.
            ToolOutage: its time was up before it asked the model, or it was killed from outside again and again.
            Exception: any error of the LLM client.
        """
        service = await service_of(self._settings, self.tokenizer)
        agent = make_agent(self._settings, row.get(AGENT_COLUMN) or self._agent)
        task = Task([dict(message) for message in row["raw_prompt"]], row)
        with self._unwatched():
            async with service.slots:
                started = time.monotonic()
                for _ in range(MOST_STARTS):
                    trajectory = self._trajectory(service, sampling_params, row.get("priority", 0))
                    async with service.endpoint.serving(trajectory) as access:
                        ended = await self._run_agent(agent, task, access, trajectory)
                    if not ended.killed or trajectory.conversation.calls:
                        break
                seconds = time.monotonic() - started
        if trajectory.failure is not None:
            raise trajectory.failure
        self._judge(ended, trajectory, service)
        calls = trajectory.conversation.calls
        metrics = AgentLoopMetrics(
            generate_sequences=trajectory.generate_s, tool_calls=max(0.0, seconds - trajectory.generate_s)
        )
        outputs = row_outputs(calls, metrics, self._extra_fields(ended, trajectory))
        _set_reward(outputs[-1], ended.result)
        return outputs if len(outputs) > 1 else outputs[0]

    def _unwatched(self) -> contextlib.AbstractContextManager[None]:
        """Exclude the agent's run from the watchdog's limit: it has one of its own, and waits for a slot before."""
        activity = getattr(self.server_manager, "activity", None)
        return contextlib.nullcontext() if activity is None else activity.pause()

    def _trajectory(self, service: Service, sampling_params: dict[str, Any], priority: int) -> Trajectory:
        rollout = self.rollout_config
        parser = ToolParser.get_tool_parser(rollout.multi_turn.format, self.tokenizer)
        sampling = Sampling(
            params=sampling_params,
            response_length=rollout.response_length,
            max_model_len=rollout.max_model_len or rollout.prompt_length + rollout.response_length,
            keep_stop="no_stop_trim" if rollout.name == "sglang" else "include_stop_str_in_output",
            stop_token_ids=tuple(parser.stop_token_ids),
        )
        return Trajectory(
            self.server_manager,
            f"det-{priority}" if rollout.get("full_determinism") else uuid4().hex,
            ContextBuilder(self.continuous_token_builder, self.tokenizer),
            AnswerReader(self.tokenizer, parser),
            sampling,
            self._settings,
            service.executor,
            Ignored(self._settings.ignore, self.tokenizer) if self._settings.ignore else None,
        )

    async def _run_agent(self, agent: Any, task: Task, access: Access, trajectory: Trajectory) -> Ended:
        """Run the agent until it ends, its time is up, or the engine has failed."""
        async with workspace_of(self._settings.workspace, task.extra_info) as workspace:
            return await self._until_its_end(agent.run(task, access, workspace), trajectory)

    async def _until_its_end(self, run: Coroutine[Any, Any, Any], trajectory: Trajectory) -> Ended:
        running = asyncio.ensure_future(run)
        failed = asyncio.ensure_future(trajectory.failed.wait())
        try:
            timeout_s = self._settings.timeout_s
            await asyncio.wait({running, failed}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                return Ended(late=trajectory.failure is None)
            return Ended(result=running.result())
        except AgentCrash as crash:
            return Ended(crash=str(crash), killed=crash.killed)
        finally:
            failed.cancel()
            running.cancel()
            await asyncio.gather(running, failed, return_exceptions=True)

    def _judge(self, ended: Ended, trajectory: Trajectory, service: Service) -> None:
        """Raise the error for the agent's end, unless it is an answer to be scored."""
        silent = not trajectory.conversation.calls
        if ended.late and silent:
            raise ToolOutage(
                f"The agent did not ask the model once within {KEY}.timeout_s={self._settings.timeout_s:g} s."
            )
        if ended.killed and silent:
            raise ToolOutage(
                f"The agent was killed {MOST_STARTS} times before it asked the model. Is the machine out of memory? "
                f"{ended.crash}"
            )
        if ended.crash is not None and (silent or self._settings.on_crash is OnCrash.STOP):
            when = "before it asked the model" if silent else f"({KEY}.on_crash=stop)"
            raise TrajectoryBug(f"The agent crashed {when}. Remedy: fix it. {ended.crash}")
        if silent:
            raise TrajectoryBug(
                "The agent ended without asking the model, so there is nothing to train. Remedy: let it send its "
                "requests to the base URL that it is given; if it lacks something that it needs, let it raise an error."
            )
        if ended.crash is not None:
            logger.warning("An agent crashed; what it did until then is scored. %s", ended.crash)
        service.crashes.count(ended.crash)

    def _extra_fields(self, ended: Ended, trajectory: Trajectory) -> dict[str, Any]:
        """Return the extra fields of every row; the reward function finds them in ``extra_info``."""
        calls, edits = len(trajectory.conversation.calls), trajectory.conversation.edits
        return {
            "agent_result": ended.result,
            "agent_crash": ended.crash,
            "agent_late": ended.late,
            "agent_calls": calls,
            "agent_refused": trajectory.refused,
            "agent_edits": dict(edits),
            LOOP_METRICS: {
                "agent/calls": calls,
                "agent/refused_calls": trajectory.refused,
                "agent/edits_per_call": edits.total() / calls,
                "agent/crashed": ended.crash is not None,
                "agent/late": ended.late,
            },
        }


def gateway_config(config: DictConfig) -> GatewayConfig:
    """Read the gateway's settings from verl's config.

    Raises:
        ConfigError: unknown key or impossible value.
    """
    values = OmegaConf.select(config, KEY)
    return GatewayConfig.from_mapping(OmegaConf.to_container(values, resolve=True) if values is not None else None)  # type: ignore[arg-type]


def _set_reward(output: AgentLoopOutput, result: Any) -> None:
    """Take the reward from the agent's result, a number or a mapping with ``reward``; others leave it to be computed.

    Raises:
        TrajectoryBug: a number that is not finite.
    """
    given, further = (result, {}) if not isinstance(result, Mapping) else (result.get("reward"), dict(result))
    if not isinstance(given, int | float):
        return
    if not math.isfinite(given):
        raise TrajectoryBug(f"The agent's reward is {given!r}: expected a finite number. Remedy: fix the agent.")
    further.pop("reward", None)
    output.reward_score = float(given)
    output.extra_fields["reward_extra_info"] = further
