"""A game with a tool outside of training, and whether its branches see what it saw.

The game is a trajectory as in training, with the calls handed in for the policy's turns: the same client, tool sessions
and guard record it and play it again. Afterwards it is branched at every turn, to make the same calls from there on.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

from verl.tools.function_tool import FunctionTool, normalize_function_tool_return
from verl.workers.rollout.replica import TokenOutput

from verl_atpo.config import ToolConfig
from verl_atpo.replay.client import BranchSession
from verl_atpo.replay.guard import ToolGuard
from verl_atpo.replay.runner import LoopRunner, Start
from verl_atpo.tools.contract import Branching
from verl_atpo.tree.recording import Generation

PROMPT = [1]
TURN = 0x110000
"""A sampled token, larger than those that stand for the characters of an observation."""
SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of the game.

    Attributes:
        arguments: the player's.
        text: what the model reads.
        reward: what the tool gave for the call.
        refused: the tool raised, and ``text`` is what the model reads of that.
        seconds: how long it took.
    """

    arguments: dict[str, Any]
    text: str
    reward: float
    refused: bool
    seconds: float

    def same_as(self, other: Call) -> bool:
        """Whether a model and a reward see no difference."""
        return (self.text, self.reward, self.refused) == (other.text, other.reward, other.refused)


class _Player:
    """Stands in for the engine: a turn is one token."""

    async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: Any) -> TokenOutput:
        return TokenOutput(token_ids=[TURN], log_probs=[0.0], extra_fields={})


class Rehearsal:
    """Games with one tool.

    Args:
        tool: of verl's, made as for training.
        create_kwargs: of the data row.
        config: settings of tools; observations are not cut.

    Attributes:
        guard: counts calls, and states opened and closed.
    """

    def __init__(self, tool: Any, create_kwargs: dict[str, Any], config: ToolConfig | None = None) -> None:
        self._tool, self._create_kwargs = tool, create_kwargs
        config = dataclasses.replace(config or ToolConfig(), max_observation_tokens=None)
        self.guard = ToolGuard(config, SimpleNamespace(all_special_tokens=SPECIAL_TOKENS))  # type: ignore[arg-type]
        self._generations: list[Generation] = []

    async def play(self, calls: AsyncIterator[dict[str, Any]], tell: Callable[[Call], None]) -> list[Call]:
        """A whole game, recorded.

        Args:
            calls: arguments of one call after the other; the next is asked for once ``tell`` has the one before.
            tell: gets every call as it was answered.

        Raises:
            BranchBug: ``open`` or ``snapshot`` raised.
            ToolOutage: the tool is out.
        """
        session, seen = await self._run(Start(snapshots=True), calls, tell)
        self._generations = session.generations
        return seen

    async def branch(self, turn: int, game: Sequence[Call]) -> list[Call]:
        """The game again, its first ``turn`` turns shared and the same calls made from there on.

        Returns:
            What was seen, shared turns included.
        """
        start = Start(prefix=self._generations[:turn], snapshots=True)
        return (await self._run(start, each([call.arguments for call in game]), lambda _: None))[1]

    async def again(self, calls: Sequence[dict[str, Any]]) -> list[Call]:
        """Other calls, from the beginning."""
        return (await self._run(Start(), each(calls), lambda _: None))[1]

    async def _run(
        self, start: Start, calls: AsyncIterator[dict[str, Any]], tell: Callable[[Call], None]
    ) -> tuple[BranchSession, list[Call]]:
        seen: list[Call] = []

        async def loop(session: BranchSession, tools: list[Any]) -> None:
            context = list(PROMPT)
            await session.generate("rehearsal", prompt_ids=context)
            async for arguments in calls:
                call = await _make(tools[0], arguments, self._create_kwargs)
                session.raise_failure()
                seen.append(call)
                tell(call)
                context = [*context, TURN, *map(ord, call.text)]
                await session.generate("rehearsal", prompt_ids=context)

        session, _ = await LoopRunner(_Player(), self.guard, loop, [self._tool]).run(start)
        return session, seen


async def first_difference(rehearsal: Rehearsal, branching: Branching, game: Sequence[Call]) -> str | None:
    """What a branch of a game saw otherwise than it, with the remedy; None if all saw the same."""
    if branching is Branching.STATELESS:
        backwards = (await rehearsal.again([call.arguments for call in reversed(game)]))[::-1]
        otherwise = _otherwise(game, backwards)
        return otherwise and f"With the calls in another order, {otherwise}. {_REMEDIES[branching]}"
    for turn in range(len(game)):
        for often in ("", " a second time"):
            otherwise = _otherwise(game, await rehearsal.branch(turn, game))
            if otherwise is not None:
                return f"Branched{often} after {turn} calls, {otherwise}. {_REMEDIES[branching]}"
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


def _otherwise(game: Sequence[Call], branch: Sequence[Call]) -> str | None:
    for number, (call, other) in enumerate(zip(game, branch, strict=True), start=1):
        if not call.same_as(other):
            told, before = (f"{each.text!r}, reward {each.reward:g}" for each in (other, call))
            return f"call {number}, {call.arguments}, gave {told}; before it gave {before}"
    return None


async def _make(tool: Any, arguments: dict[str, Any], create_kwargs: dict[str, Any]) -> Call:
    """One call, as verl's tool agent makes it."""
    started = time.monotonic()
    refused = False
    try:
        if isinstance(tool, FunctionTool):
            response, reward, _ = normalize_function_tool_return(await tool.call(arguments))
        else:
            instance, _ = await tool.create(create_kwargs=create_kwargs)
            try:
                response, reward, _ = await tool.execute(instance, arguments, agent_data=SimpleNamespace())
            finally:
                await tool.release(instance)
        text = response.text or ""
    except Exception as error:
        text, reward, refused = f"Error executing tool '{tool.name}': {error}", 0.0, True
    return Call(arguments, text, float(reward or 0.0), refused, time.monotonic() - started)


async def each(calls: Sequence[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """Calls that are known beforehand, for :meth:`Rehearsal.play`."""
    for arguments in calls:
        yield arguments
