"""The LLM client of one run of an agent loop: its first generations are answered from a recording.

The agent loop gets its LLM client and its tools from outside, so that is where an expansion is made. A request with the
prompt ids, images, videos and audio of a generation of the prefix gets what the engine answered before, and the tools
return or do again what they did before (``replay/tools.py``); all other requests are live. Nothing inside the loop is
known or copied and nothing is tokenized again. Requests are matched by what they ask, not by their order, so that a
loop may have several conversations at a time. A run that never asks for a part of its prefix has diverged: the
environment is not deterministic.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from async_timeout import timeout

from verl_atpo.deadlines.activity import Activity
from verl_atpo.failure import EngineOutage, TrajectoryBug, brief
from verl_atpo.tree.conversations import Conversations, context_key
from verl_atpo.tree.media import has_media, media_digests
from verl_atpo.tree.recording import BEGIN, Generation, contexts_of

logger = logging.getLogger(__name__)

GIVEN_UP = ("abort", "aborted", "error")
"""Values of ``stop_reason`` for a generation that the engine did not finish."""


class ReplayClient:
    """The LLM client of one run of an agent loop: replays ``prefix``, then samples live.

    Args:
        client: verl's ``LLMServerClient`` (or any object with its ``generate``).
        request_id: sticky routing id, shared by the trajectories of a tree so that they meet a warm prefix cache;
            ``None`` keeps the loop's own ids.
        prefix: generations to replay, in the order in which they were answered.
        on_turn: called whenever the loop continues after a live turn: that turn and the tool calls after it are
            complete.
        on_sampled: called with the number of tokens of every live generation.
        on_context: called with the prompt ids of every live turn, before it is sampled.
        engine_s: seconds that the engine may take for a generation; ``None`` for no limit.

    Attributes:
        live: the generations of this run that were sampled, in the order in which they were answered.
        missed: contexts of sampled generations while parts of the prefix had not been requested.
        replaying: whether the latest generation was a replayed one, so that the tool calls after it are on record.
        latest: the latest generation.
        activity: the run, for the watchdog, without the time of calls that have bounds of their own.
        failure: the outage or bug that ended the run; raised at the loop's next generation and at its end.
        closed: the loop has returned; nothing is sampled any more.
    """

    def __init__(
        self,
        client: Any,
        request_id: str | None,
        prefix: Sequence[Generation] = (),
        on_turn: Callable[[ReplayClient], None] | None = None,
        on_sampled: Callable[[int], None] | None = None,
        on_context: Callable[[list[int]], None] | None = None,
        engine_s: float | None = None,
    ) -> None:
        self._client = client
        self._request_id = request_id
        self._prefix = list(prefix)
        self._waiting: dict[bytes, list[int]] = {}
        for number, context in enumerate(contexts_of(self._prefix)):
            self._waiting.setdefault(context_key(context, self._prefix[number].media), []).append(number)
        for equal in self._waiting.values():  # agents that ask the same at the same time do so in the same order again
            equal.sort(key=lambda number: self._prefix[number].started_s)
        self._replayed: list[int] = []
        self._conversations = Conversations()
        self._on_turn = on_turn
        self._on_sampled = on_sampled
        self._on_context = on_context
        self._continuing = 0
        self._rerecorded: list[Generation] | None = None
        self.live: list[Generation] = []
        self.missed: list[list[int]] = []
        self.replaying = False
        self.latest: Generation | None = None
        self._engine_s = engine_s
        self.activity = Activity("The agent loop", watched=True)
        self.failure: Exception | None = None
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    @property
    def replayed(self) -> int:
        """Number of this run's generations that were replayed."""
        return len(self._replayed)

    @property
    def generations(self) -> list[Generation]:
        """All generations of this run: replayed ones (the recorded objects), then live ones."""
        if self._rerecorded is not None:
            return list(self._rerecorded)
        return [*(self._prefix[number] for number in sorted(self._replayed)), *self.live]

    @property
    def unasked(self) -> list[list[int]]:
        """The contexts of the prefix that the loop has not asked with."""
        numbers = sorted(number for waiting in self._waiting.values() for number in waiting)
        contexts = contexts_of(self._prefix) if numbers else []
        return [contexts[number] for number in numbers]

    @property
    def diverged(self) -> bool:
        """True if the loop asked for something else and left out a part of its prefix."""
        return bool(self._waiting) and bool(self.live)

    async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: Any) -> Any:
        """Answer a request of the loop; arguments and result are those of ``LLMServerClient.generate``.

        Raises:
            TrajectoryBug: the loop has ended.
            EngineOutage: the engine did not answer, or gave the request up.
            Exception: ``failure``, if there is one.
        """
        self._refuse_after_end()
        self.raise_failure()
        asked = prompt_ids.tolist() if hasattr(prompt_ids, "tolist") else list(prompt_ids)  # a tensor, an array
        with self.activity.pause():
            return await self._answer(request_id, asked, kwargs)

    async def _answer(self, request_id: str, asked: list[int], arguments: dict) -> Any:
        # Large pictures take milliseconds, in which other trajectories run.
        media = await asyncio.to_thread(media_digests, arguments) if has_media(arguments) else ()
        recorded = self._recorded(asked, media)
        if recorded is not None:
            return _own_copy(recorded.output)
        continues = self._conversations.at_end(asked)
        if self._on_turn is not None and self.live and not (continues or self._continuing or self._waiting):
            self._on_turn(self)
        if self._on_context is not None and not continues:
            self._on_context(asked)
        self._continuing += continues
        try:
            return await self._sample(request_id, asked, media, arguments)
        finally:
            self._continuing -= continues

    async def _sample(self, request_id: str, asked: list[int], media: tuple[str, ...], arguments: dict) -> Any:
        started = time.monotonic()
        try:
            async with timeout(self._engine_s):
                output = await self._client.generate(
                    self._request_id or request_id, prompt_ids=list(asked), **arguments
                )
        except TypeError:
            raise  # the loop's own arguments
        except Exception as error:
            self.failure = EngineOutage(f"The engine did not answer: {brief(error)}")
            raise self.failure from error
        self._refuse_after_end()
        reason = getattr(output, "stop_reason", None)
        if reason in GIVEN_UP or not output.token_ids:
            self.failure = EngineOutage(
                f"The engine gave a generation up after {len(output.token_ids)} tokens (stop_reason={reason!r})."
            )
            raise self.failure
        if self._waiting:
            self.missed.append(asked)
        earlier = self.generations
        settled = earlier[-1] if earlier and not self._waiting else None
        generation = self._conversations.record(asked, _own_copy(output), media, settled)
        generation.started_s, generation.ended_s = started, time.monotonic()
        self.live.append(generation)
        self.latest, self.replaying = generation, False
        if self._on_sampled is not None:
            self._on_sampled(len(generation.output.token_ids))
        return output

    def close(self) -> None:
        """End the recording: the loop has returned, and tasks that it left get no answer any more."""
        if not self.closed and self._waiting and sorted(self._replayed) != list(range(self.replayed)):
            self._rerecord()
        self.closed = True

    def _rerecord(self) -> None:
        """Record a run that left out a part of its prefix which later generations were related to."""
        contexts = contexts_of(self._prefix)
        known = {id(self._prefix[number]): contexts[number] for number in self._replayed}
        record, conversations = list[Generation](), Conversations()
        for generation in self.generations:
            if id(generation) not in known:  # a live one, which names what it continues
                before = generation.before
                base = [] if before is None or before is BEGIN else known[id(before)] + before.output.token_ids
                known[id(generation)] = generation.asked_with(base)
            asked = known[id(generation)]
            own = conversations.record(asked, generation.output, generation.media, record[-1] if record else None)
            own.tool_calls, own.started_s, own.ended_s = generation.tool_calls, generation.started_s, generation.ended_s
            record.append(own)
        self._rerecorded = record

    def _refuse_after_end(self) -> None:
        if self.closed:
            message = (
                "A task that the agent loop left running asked the engine after the loop's end: it gets no answer, and "
                "nothing of it is trained. Await every task before the loop returns."
            )
            logger.warning("%s", message)
            raise TrajectoryBug(message)

    def raise_failure(self) -> None:
        """Raise ``failure``, if there is one: agent loops may swallow what their client raises, and make an observation
        of what a tool raises."""
        if self.failure is not None:
            raise self.failure

    def _recorded(self, asked: list[int], media: tuple[str, ...]) -> Generation | None:
        """Take the recorded generation that answers a request; of equal requests the one that was asked first."""
        key = context_key(asked, media)
        waiting = self._waiting.get(key)
        if waiting is None:
            return None
        number = waiting.pop(0)
        if not waiting:
            del self._waiting[key]
        self._replayed.append(number)
        recorded = self._prefix[number]
        self._conversations.add(recorded, asked)
        self.latest, self.replaying = recorded, True
        return recorded


def _own_copy(output: Any) -> Any:
    """Copy an answer, so that the loop may change its lists without changing the recording."""
    own = copy.copy(output)
    own.token_ids = list(output.token_ids)
    own.log_probs = None if output.log_probs is None else list(output.log_probs)
    own.extra_fields = dict(output.extra_fields)
    return own
