"""Tools for custom agent loops: every call is answered, failed ones too, and counted."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from verl.tools.schemas import ToolResponse

from verl_atpo.tools.stateful import expanded
from verl_atpo.tools.text import harmless
from verl_atpo.tools.tool_agent import OBSERVER, complete_tool_agent, episode_ended


@dataclasses.dataclass(frozen=True)
class ToolAnswer:
    """The answer to one call.

    Attributes:
        name: name of the function that was called.
        text: answer for the model; of a failed call the error's text.
        reward: reward of the call; 0.0 unless the tool gives one.
        response: verl's form of the answer, with images if there are any.
    """

    name: str
    text: str
    reward: float
    response: ToolResponse

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message for ``ct_merge_context_msg``."""
        return {"role": "tool", "content": self.text}


class _Trajectory:
    """Lifetime of the trajectory: states of tools are released when this object is gone."""


class Toolbox:
    """The tools of one trajectory; make one in every ``run`` of the loop.

    A call goes the way of verl's own tool agent: under this package's sampler it is guarded, recorded and replayed,
    under verl's own it is made. What a tool raises, an unknown function and malformed arguments are answers that the
    model reads.

    Args:
        loop: the agent loop, for its tokenizer and its settings under ``rollout.multi_turn``.
        tools: the argument ``tools`` of the loop's ``__init__``, or a list of tools.
        row: fields of the data row that ``run`` got, for ``tools_kwargs`` and ``extra_info.tool_selection``.

    Attributes:
        rewards: rewards of the calls so far, in the order of their answers; a loop returns them as ``tool_rewards``.
    """

    def __init__(self, loop: Any, tools: Any, row: Mapping[str, Any]) -> None:
        complete_tool_agent()
        info = row.get("extra_info") or {}
        given = expanded(getattr(tools, "tools", tools) or [])
        selected = info.get("tool_selection")
        self._tools = {tool.name: tool for tool in given if not selected or tool.name in selected}
        self._tools_kwargs = row.get("tools_kwargs") or info.get("tools_kwargs")
        settings = loop.rollout_config.multi_turn
        self._agent = SimpleNamespace(
            tools=self._tools,
            max_tool_response_length=settings.max_tool_response_length,
            tool_response_truncate_side=settings.tool_response_truncate_side,
        )
        self._tokenizer = loop.tokenizer
        self._trajectory = _Trajectory()
        self.rewards: list[float] = []

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """Schemas that a chat template takes as ``tools``."""
        return [tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True) for tool in self._tools.values()]

    @property
    def ended(self) -> bool:
        """True if the trajectory has to end: a tool ended the episode, or too many calls in a row were malformed."""
        observer = OBSERVER.get()
        return episode_ended(self._trajectory) or (observer is not None and observer.ends_run())

    async def call(self, name: str, arguments: Mapping[str, Any] | str) -> ToolAnswer:
        """Make one call.

        Args:
            name: name of the function, as the model wrote it.
            arguments: a mapping, or the model's JSON text.
        """
        answer = await self._answer(name, arguments)
        self.rewards.append(answer.reward)
        return answer

    async def call_all(self, calls: Sequence[Any]) -> list[ToolAnswer]:
        """Make the calls of one turn at the same time; each has ``name`` and ``arguments``, as verl's parsers give."""
        answers = await asyncio.gather(*(self._answer(call.name, call.arguments) for call in calls))
        self.rewards += [answer.reward for answer in answers]
        return list(answers)

    async def _answer(self, name: str, arguments: Mapping[str, Any] | str) -> ToolAnswer:
        from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
        from verl.experimental.agent_loop.tool_parser import FunctionCall

        text = arguments if isinstance(arguments, str) else json.dumps(dict(arguments), ensure_ascii=False)
        call: Any = ToolAgentLoop._call_tool
        response, reward, _ = await call(
            self._agent, FunctionCall(name=name, arguments=text), self._tools_kwargs, self._trajectory
        )
        return ToolAnswer(name, harmless(response.text or "", self._tokenizer), float(reward or 0.0), response)
