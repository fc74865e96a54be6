"""The LLM client of one run of an agent loop: its first generations are answered from a recording.

The agent loop gets its LLM client and its tools from outside, so that is where an expansion is made. For the
generations of its prefix the client returns what the engine answered before, and the tools return or do again what they
did before (``replay/tools.py``); from then on both are live. Nothing inside the loop is known or copied and nothing is
tokenized again. Each replayed generation checks that the loop asks with exactly the recorded prompt ids, images, videos
and audio; the first that does not ends the replay (the environment is not deterministic) and the run goes on live.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from verl_atpo.failure import BranchBug, EngineOutage, brief
from verl_atpo.tree.media import has_media, media_digests
from verl_atpo.tree.recording import Generation

logger = logging.getLogger(__name__)

GIVEN_UP = ("abort", "aborted", "error")
"""What engines give as ``stop_reason`` of a generation that they did not finish."""


class BranchSession:
    """The LLM client of one run of an agent loop: replays ``prefix``, then samples live.

    Args:
        client: verl's ``LLMServerClient`` (or any object with its ``generate``).
        request_id: sticky routing id, shared by the trajectories of a tree so that they meet a warm prefix cache;
            ``None`` keeps the loop's own ids.
        prefix: generations to replay, in order.
        on_turn: called whenever the loop goes on after a turn of its own: that turn and the tool calls after it are
            complete.
        on_sampled: called with the number of tokens of every live generation.
        on_context: called with the prompt ids of every live turn, before it is sampled.

    Attributes:
        generations: every generation of this run, replayed ones first (the recorded objects themselves).
        replayed: how many of them were replayed.
        diverged: the loop asked with other prompt ids than were recorded, so the replay ended early.
        failure: the outage or bug that ended the run; raised at the loop's next generation and at its end.
        closed: the loop has returned; nothing is sampled any more.
    """

    def __init__(
        self,
        client: Any,
        request_id: str | None,
        prefix: Sequence[Generation] = (),
        on_turn: Callable[[BranchSession], None] | None = None,
        on_sampled: Callable[[int], None] | None = None,
        on_context: Callable[[list[int]], None] | None = None,
    ) -> None:
        self._client = client
        self._request_id = request_id
        self._prefix = list(prefix)
        self._on_turn = on_turn
        self._on_sampled = on_sampled
        self._on_context = on_context
        self._context: list[int] = []  # prompts and answers so far
        self._busy = False
        self.generations: list[Generation] = []
        self.replayed = 0
        self.diverged = False
        self.failure: Exception | None = None
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    @property
    def replaying(self) -> bool:
        """Whether the latest generation was a replayed one, so that the tool calls after it are on record."""
        return self.replayed > 0 and self.replayed == len(self.generations)

    async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: Any) -> Any:
        """Answer the loop's next turn; arguments and result are those of ``LLMServerClient.generate``.

        Raises:
            BranchBug: the loop generates twice at once, which has no order that could be replayed, or after its end.
            EngineOutage: the engine did not answer, or gave the request up.
            Exception: ``failure``, if there is one.
        """
        self._refuse_after_end()
        self.raise_failure()
        if self._busy:
            self.failure = BranchBug(
                "The agent loop called generate() while its previous call was still running. A tree needs turns in an "
                "order: await each generate() of a trajectory before the next."
            )
            raise self.failure
        asked = list(prompt_ids)
        self._busy = True
        try:
            # Large pictures take milliseconds, in which other trajectories go on.
            media = await asyncio.to_thread(media_digests, kwargs) if has_media(kwargs) else ()
            recorded = self._next_recorded(asked, media)
            if recorded is not None:
                self._take(recorded, asked)
                self.replayed += 1
                return _own_copy(recorded.output)
            return await self._sample(request_id, asked, media, kwargs)
        finally:
            self._busy = False

    async def _sample(self, request_id: str, asked: list[int], media: tuple[str, ...], arguments: dict) -> Any:
        if self._on_turn is not None and asked != self._context and len(self.generations) > self.replayed:
            self._on_turn(self)
        if self._on_context is not None and asked != self._context:
            self._on_context(asked)
        started = time.monotonic()
        try:
            output = await self._client.generate(self._request_id or request_id, prompt_ids=list(asked), **arguments)
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
        generation = Generation.after(self._context, asked, _own_copy(output), media)
        generation.started_s, generation.ended_s = started, time.monotonic()
        self._take(generation, asked)
        if self._on_sampled is not None:
            self._on_sampled(len(generation.output.token_ids))
        return output

    def close(self) -> None:
        """End the recording: the loop has returned, and tasks that it left get no answer any more."""
        self.closed = True

    def _refuse_after_end(self) -> None:
        if self.closed:
            message = (
                "A task that the agent loop left running asked the engine after the loop's end: it gets no answer, and "
                "nothing of it is trained. Await every task before the loop returns."
            )
            logger.warning("%s", message)
            raise BranchBug(message)

    def raise_failure(self) -> None:
        """Raise ``failure``, if there is one: agent loops may swallow what their client raises, and make an observation
        of what a tool raises."""
        if self.failure is not None:
            raise self.failure

    def _next_recorded(self, asked: list[int], media: tuple[str, ...]) -> Generation | None:
        done = len(self.generations)
        if self.diverged or done >= len(self._prefix):
            return None
        recorded = self._prefix[done]
        if recorded.asked_with(self._context) != asked or recorded.media != media:
            self.diverged = True
            return None
        return recorded

    def _take(self, generation: Generation, asked: list[int]) -> None:
        self.generations.append(generation)
        self._context = asked + generation.output.token_ids


def _own_copy(output: Any) -> Any:
    """A copy whose lists the loop may change without touching the recording."""
    own = copy.copy(output)
    own.token_ids = list(output.token_ids)
    own.log_probs = None if output.log_probs is None else list(output.log_probs)
    own.extra_fields = dict(output.extra_fields)
    return own
