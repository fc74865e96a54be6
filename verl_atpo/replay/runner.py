"""Runner of any agent loop, with its own LLM client and its own tools, which it releases at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from verl_atpo.deadlines.within import within
from verl_atpo.replay.client import BranchSession
from verl_atpo.replay.guard import CallMemo, ToolGuard
from verl_atpo.replay.tools import ToolSession
from verl_atpo.tree.comparison import Place, check_tree_rows
from verl_atpo.tree.recording import Generation, Turn, group_turns

Loop = Callable[[BranchSession, list[Any]], Awaitable[Any]]
"""Runs the loop once, with this LLM client and these tools; returns the loop's output."""


@dataclasses.dataclass(frozen=True)
class Branch:
    """A finished run of the agent loop, a trajectory of a tree.

    Attributes:
        outputs: what the agent loop returned, the last one scored: verl's ``AgentLoopOutput``, or objects with its
            fields; one per stretch of turns in which the context was only added to.
        turns: the trajectory's turns, shared ones included.
        places: where each turn is trained.
        replayed: generations that were answered from the recording; all after them were sampled.
        diverged: the loop asked with other prompt ids than were recorded, so the replay ended early.
    """

    outputs: list[Any]
    turns: list[Turn]
    places: list[Place]
    replayed: int
    diverged: bool

    @classmethod
    def of(cls, session: BranchSession, output: Any, response_length: int | None = None) -> Branch:
        """Make a finished run from its client and what its loop returned.

        Args:
            session: its client; nothing is sampled with it any more.
            output: what the loop returned, scored: an output, or a list of them.
            response_length: tokens at which a response is cut off; ``None`` if it never is.

        Raises:
            NothingSampledError: the loop did not ask the model.
            BranchBug: the row is not what was sampled; see :func:`verl_atpo.tree.comparison.check_tree_rows`.
        """
        session.close()
        outputs = output if isinstance(output, list) else [output]
        places = check_tree_rows(session.generations, outputs, response_length)
        return cls(outputs, group_turns(session.generations), places, session.replayed, session.diverged)

    @property
    def output(self) -> Any:
        """The last output, which has the reward."""
        return self.outputs[-1]

    @property
    def starts(self) -> list[int]:
        """Index of each turn's first token in the response of its row."""
        return [place.start for place in self.places]

    @property
    def reward(self) -> float:
        """Outcome reward."""
        return float(self.output.reward_score)

    @property
    def generations(self) -> list[Generation]:
        """Every generation, replayed ones first."""
        return [generation for turn in self.turns for generation in turn.generations]


@dataclasses.dataclass(frozen=True)
class Start:
    """Start of a trajectory.

    Attributes:
        number: of its leaf.
        prefix: generations that are replayed.
        snapshots: whether forking tools have to leave snapshots, because later expansions may start at its turns.
        on_turn, on_sampled: of its :class:`BranchSession`.
    """

    number: int = 0
    prefix: Sequence[Generation] = ()
    snapshots: bool = False
    on_turn: Callable[[BranchSession], None] | None = None
    on_sampled: Callable[[int], None] | None = None


@dataclasses.dataclass(frozen=True)
class LoopRunner:
    """Runs one agent loop again and again.

    Attributes:
        client: verl's ``LLMServerClient``, or any object with its ``generate``.
        guard: around live tool calls.
        loop: the loop.
        tools: those it has.
        request_id: sticky routing id of all its requests; ``None`` keeps the loop's own ids.
        memo: for calls of stateless tools, or None.
        on_context: of each :class:`BranchSession`.
        response_length: tokens at which a response is cut off; ``None`` if it never is.
        engine_s: of each :class:`BranchSession`.
        name: the loop's, for people.
    """

    client: Any
    guard: ToolGuard
    loop: Loop
    tools: Sequence[Any] = ()
    request_id: str | None = None
    memo: CallMemo | None = None
    on_context: Callable[[list[int]], None] | None = None
    response_length: int | None = None
    engine_s: float | None = None
    name: str = ""

    async def run(self, start: Start) -> tuple[BranchSession, Any]:
        """Run the loop once.

        Returns:
            Its client, and what the loop returned.

        Raises:
            Exception: the error of the loop or the client; a tool's outage, if that is what ended the run. What the
                loop raised that is no ``Exception`` is one (:func:`verl_atpo.deadlines.within.within`).
        """
        callbacks = (start.on_turn, start.on_sampled, self.on_context)
        session = BranchSession(self.client, self.request_id, start.prefix, *callbacks, self.engine_s)
        session.activity.name = f"Agent loop {self.name!r}"
        async with ToolSession(session, self.guard, self.memo, start.snapshots) as tools:
            try:
                output = await within(None, session.activity, self.loop(session, tools.wrap(self.tools)))
            finally:
                session.close()
            session.raise_failure()
        return session, output

    async def branch(self, start: Start) -> Branch:
        """Run the loop as a trajectory of a tree; raises what :meth:`run` and :meth:`Branch.of` do."""
        return Branch.of(*await self.run(start), self.response_length)
