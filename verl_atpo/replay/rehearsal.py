"""A rehearsal of a tool outside of training: a game, and expansions of it that have to see the same.

The game is a trajectory as in training, with the calls handed in for the policy's turns: the same client, tool sessions
and guard record it and play it again, and verl's own tool agent makes each call. Afterwards it is branched at every
turn, to make the same calls from there on.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.experimental.agent_loop.tool_parser import FunctionCall
from verl.workers.rollout.replica import TokenOutput

from verl_atpo.config import ToolConfig
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.guard import ToolGuard
from verl_atpo.replay.runner import LoopRunner, Start
from verl_atpo.tools.contract import Branching
from verl_atpo.tools.stateful import expanded, names_in_rows
from verl_atpo.tools.tool_agent import complete_tool_agent, episode_ended
from verl_atpo.tree.recording import Generation

PROMPT = [1]
TURN = 0x110000
"""A sampled token, larger than those that stand for the characters of an observation."""
SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
UNCUT = 1 << 40
"""Characters of an answer; verl's cut is spoken of, not made."""
_REFUSALS = ("Error executing tool ", "Unknown function ", "Invalid JSON in arguments ", "Arguments of ")
"""Beginnings of answers that verl's tool agent gives itself."""
Asked = tuple[str, dict[str, Any]]
"""A call to be made: name of the function, arguments."""


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of the game.

    Attributes:
        name: name of the function.
        arguments: arguments of the player.
        text: the answer for the model.
        reward: reward of the tool for the call.
        refused: the tool raised, and ``text`` is the error for the model.
        seconds: duration of the call.
        last: the tool ended the episode.
    """

    name: str
    arguments: dict[str, Any]
    text: str
    reward: float
    refused: bool
    seconds: float
    last: bool = False

    def same_as(self, other: Call) -> bool:
        """Return whether a model and a reward see no difference."""
        return (self.text, self.reward, self.last) == (other.text, other.reward, other.last)


class _Player:
    """Replacement for the engine: a turn is one token."""

    async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: Any) -> TokenOutput:
        return TokenOutput(token_ids=[TURN], log_probs=[0.0], extra_fields={})


class Rehearsal:
    """Games with one tool.

    Args:
        tool: tool of verl's, made as for training.
        create_kwargs: ``create_kwargs`` of the data row.
        config: settings of tools; observations are not cut.

    Attributes:
        guard: counts calls, and states opened and closed.
    """

    def __init__(self, tool: Any, create_kwargs: dict[str, Any], config: ToolConfig | None = None) -> None:
        complete_tool_agent()
        self._tool = tool
        self._tools_kwargs = {names_in_rows(each)[-1]: {"create_kwargs": create_kwargs} for each in expanded([tool])}
        config = dataclasses.replace(config or ToolConfig(), max_observation_tokens=None)
        self.guard = ToolGuard(config, SimpleNamespace(all_special_tokens=SPECIAL_TOKENS))  # type: ignore[arg-type]
        self._generations: list[Generation] = []

    async def play(self, calls: AsyncIterator[Asked], tell: Callable[[Call], None]) -> list[Call]:
        """Play and record a game.

        Args:
            calls: one after the other; the next is asked for once ``tell`` has the one before.
            tell: gets every call as it was answered.

        Raises:
            TrajectoryBug: ``open`` or ``snapshot`` raised.
            ToolOutage: the tool is out.
        """
        session, seen = await self._run(Start(snapshots=True), calls, tell)
        self._generations = session.generations
        return seen

    async def expand(self, turn: int, game: Sequence[Call]) -> list[Call]:
        """Play the game again: share its first ``turn`` turns, then make the same calls.

        Returns:
            The calls with their answers, shared turns included.
        """
        start = Start(prefix=self._generations[:turn], snapshots=True)
        return (await self._run(start, each([(call.name, call.arguments) for call in game]), lambda _: None))[1]

    async def play_from_start(self, calls: Sequence[Asked]) -> list[Call]:
        """Play other calls, from the beginning."""
        return (await self._run(Start(), each(calls), lambda _: None))[1]

    async def _run(
        self, start: Start, calls: AsyncIterator[Asked], tell: Callable[[Call], None]
    ) -> tuple[ReplayClient, list[Call]]:
        seen: list[Call] = []

        async def loop(session: ReplayClient, tools: list[Any]) -> None:
            player = _Agent(tools, self._tools_kwargs)
            context = list(PROMPT)
            await session.generate("rehearsal", prompt_ids=context)
            async for name, arguments in calls:
                call = await player.call(name, arguments)
                session.raise_failure()
                seen.append(call)
                tell(call)
                if call.last:
                    break
                context = [*context, TURN, *map(ord, call.text)]
                await session.generate("rehearsal", prompt_ids=context)

        session, _ = await LoopRunner(_Player(), self.guard, loop, [self._tool]).run(start)
        return session, seen


async def first_difference(rehearsal: Rehearsal, branching: Branching, game: Sequence[Call]) -> str | None:
    """Describe the first difference between a game and its expansions, with the remedy; None if all saw the same."""
    if branching is Branching.STATELESS:
        backwards = (await rehearsal.play_from_start([(call.name, call.arguments) for call in reversed(game)]))[::-1]
        otherwise = _otherwise(game, backwards)
        return otherwise and f"With the calls in another order, {otherwise}. {_REMEDIES[branching]}"
    for turn in range(len(game)):
        for often in ("", " a second time"):
            otherwise = _otherwise(game, await rehearsal.expand(turn, game))
            if otherwise is not None:
                return f"Expanded{often} after {turn} calls, {otherwise}. {_REMEDIES[branching]}"
    return None


_REMEDIES = {
    Branching.STATELESS: (
        "What a tool answers has to depend on its arguments alone; one with state is a verl_atpo.tools.StatefulTool."
    ),
    Branching.REPLAY: (
        "The same calls on a fresh state have to give the same answers: seed what is random in `open`, with something "
        "of the data row; or write `snapshot` and `restore`."
    ),
    Branching.FORK: (
        "`snapshot` has to return a copy that later calls do not change, `restore` a new state from it each time: "
        "copy.deepcopy in both, if nothing else does. (What an environment draws at random may differ: seed it here.)"
    ),
}


def _otherwise(game: Sequence[Call], expansion: Sequence[Call]) -> str | None:
    for number, (call, other) in enumerate(zip(game, expansion, strict=True), start=1):
        if not call.same_as(other):
            now, before = (f"{each.text!r}, reward {each.reward:g}" for each in (other, call))
            return f"call {number}, {call.arguments}, gave {now}; before it gave {before}"
    return None


class _Agent:
    """The fields of verl's tool agent that a call needs, without a model."""

    max_tool_response_length, tool_response_truncate_side = UNCUT, "middle"

    def __init__(self, tools: Sequence[Any], tools_kwargs: dict[str, Any]) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self._tools_kwargs, self._trajectory = tools_kwargs, SimpleNamespace()

    async def call(self, name: str, arguments: dict[str, Any]) -> Call:
        """Make one call by verl's tool agent."""
        started = time.monotonic()
        asked = FunctionCall(name=name, arguments=json.dumps(arguments))
        make: Any = ToolAgentLoop._call_tool
        response, reward, _ = await make(self, asked, self._tools_kwargs, self._trajectory)
        text = response.text or ""
        seconds, last = time.monotonic() - started, episode_ended(self._trajectory)
        return Call(name, arguments, text, float(reward or 0.0), text.startswith(_REFUSALS), seconds, last)


async def each(calls: Sequence[Asked]) -> AsyncIterator[Asked]:
    """Yield calls that are known beforehand, for :meth:`Rehearsal.play`."""
    for arguments in calls:
        yield arguments
