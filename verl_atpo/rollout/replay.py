"""Branching by replay: one run of any agent loop, its first generations answered from a recording.

The agent loop gets its LLM client and its tools handed in, so that is where a branch is made. For the generations of
its prefix the client returns what the engine answered before, and function tools, which are stateless by verl's
contract, return what they returned before; from then on both are live. Nothing inside the loop is known or cloned and
nothing is tokenised again. Each replayed generation checks that the loop asks with exactly the recorded prompt ids; the
first that does not ends the replay there (the environment is not deterministic) and the branch goes on live.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from verl.tools.function_tool import FunctionTool
from verl.workers.rollout.replica import TokenOutput


@dataclasses.dataclass
class ToolCall:
    """One call of a function tool: what went in, and what came out or was raised."""

    name: str
    arguments: dict[str, Any]
    result: Any = None
    error: Exception | None = None


@dataclasses.dataclass
class Generation:
    """One answer of the engine, and the function-tool calls that followed it.

    Attributes:
        prompt_ids: the whole context the loop asked with.
        output: what the engine answered; ``output.log_probs`` in nats.
        tool_calls: calls made before the loop asked again.
    """

    prompt_ids: list[int]
    output: TokenOutput
    tool_calls: list[ToolCall] = dataclasses.field(default_factory=list)


class BranchSession:
    """The LLM client of one run of an agent loop: replays ``prefix``, then samples live.

    Args:
        client: verl's ``LLMServerClient`` (or any object with its ``generate``).
        request_id: sticky routing id, shared by the branches of a tree so that they meet a warm prefix cache;
            ``None`` keeps the loop's own ids.
        prefix: generations to replay, in order.

    Attributes:
        generations: every generation of this run, replayed ones first (the recorded objects themselves).
        replayed: how many of them were replayed.
        diverged: the loop asked with other prompt ids than were recorded, so the replay ended early.
        tool_errors: live tool calls that raised.
    """

    def __init__(self, client: Any, request_id: str | None, prefix: Sequence[Generation] = ()) -> None:
        self._client = client
        self._request_id = request_id
        self._prefix = list(prefix)
        self._busy = False
        self._calls_taken: set[int] = set()
        self.generations: list[Generation] = []
        self.replayed = 0
        self.diverged = False
        self.tool_errors = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    @property
    def replaying(self) -> bool:
        """Whether the latest generation was a replayed one, so that the tool calls after it are on record."""
        return self.replayed > 0 and self.replayed == len(self.generations)

    async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: Any) -> TokenOutput:
        """Answer the loop's next turn; arguments and result are those of ``LLMServerClient.generate``.

        Raises:
            RuntimeError: the loop generates twice at once, which has no order that could be replayed.
        """
        if self._busy:
            raise RuntimeError(
                "The agent loop called generate() while its previous call was still running. A tree needs turns in an "
                "order: await each generate() of a trajectory before the next."
            )
        self._calls_taken.clear()
        recorded = self._next_recorded(prompt_ids)
        if recorded is not None:
            self.generations.append(recorded)
            self.replayed += 1
            return _own_copy(recorded.output)
        self._busy = True
        try:
            output = await self._client.generate(self._request_id or request_id, prompt_ids=prompt_ids, **kwargs)
        finally:
            self._busy = False
        self.generations.append(Generation(list(prompt_ids), _own_copy(output)))
        return output

    def _next_recorded(self, prompt_ids: list[int]) -> Generation | None:
        done = len(self.generations)
        if self.diverged or done >= len(self._prefix):
            return None
        if self._prefix[done].prompt_ids != list(prompt_ids):
            self.diverged = True
            return None
        return self._prefix[done]

    def wrap_tools(self, tools: Sequence[Any]) -> list[Any]:
        """The loop's tools for this run: function tools recorded and replayed, all others as they are.

        A ``BaseTool`` may hold state, so its past calls are made again, which rebuilds that state.
        """
        return [self._wrap(tool) if isinstance(tool, FunctionTool) else tool for tool in tools]

    def _wrap(self, tool: FunctionTool) -> FunctionTool:
        async def call(**arguments: Any) -> Any:
            call = self._recorded_call(tool.name, arguments)
            if call is None:
                call = await self._live_call(tool, arguments)
            if call.error is not None:
                raise call.error
            return call.result

        return dataclasses.replace(tool, fn=call, is_async=True)

    def _recorded_call(self, name: str, arguments: dict[str, Any]) -> ToolCall | None:
        if not self.replaying:
            return None
        for position, call in enumerate(self.generations[-1].tool_calls):
            if position not in self._calls_taken and call.name == name and call.arguments == arguments:
                self._calls_taken.add(position)
                return call
        return None

    async def _live_call(self, tool: FunctionTool, arguments: dict[str, Any]) -> ToolCall:
        call = ToolCall(tool.name, arguments)
        try:
            call.result = await tool.call(arguments)
        except Exception as error:  # kept, and raised again now and on every replay
            call.error = error
            self.tool_errors += 1
        if self.generations and not self.replaying:
            self.generations[-1].tool_calls.append(call)
        return call


def _own_copy(output: TokenOutput) -> TokenOutput:
    """A copy whose lists the loop may change without touching the recording."""
    return output.model_copy(
        update={
            "token_ids": list(output.token_ids),
            "log_probs": None if output.log_probs is None else list(output.log_probs),
            "extra_fields": dict(output.extra_fields),
        }
    )
