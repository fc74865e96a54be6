"""One trajectory at the endpoint: answers requests with the policy, within its limits."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from verl_atpo.failure import EmptyTurnError
from verl_atpo.gateway.answers import Answer, AnswerReader, Ask
from verl_atpo.gateway.context import ContextBuilder
from verl_atpo.gateway.conversation import Call, Conversation, Request
from verl_atpo.gateway.errors import ApiError, too_long
from verl_atpo.gateway.fingerprint import Fingerprint
from verl_atpo.gateway.settings import GatewayConfig

logger = logging.getLogger(__name__)

SHORT_TEXT = 4000
"""Characters of new messages that are tokenized without another thread."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Sampling of the recipe; a harness cannot change it.

    Attributes:
        params: verl's sampling parameters.
        response_length: most tokens of a row after its prompt.
        max_model_len: most tokens of a context with its answer.
        keep_stop: name of the engine's parameter that leaves the stop text in the sampled ids.
        stop_token_ids: stop tokens of the model's tool format, beside the end token.
    """

    params: Mapping[str, Any]
    response_length: int
    max_model_len: int
    keep_stop: str = "include_stop_str_in_output"
    stop_token_ids: tuple[int, ...] = ()

    def room(self, context: int, prompt: int) -> int:
        """Count the tokens that may be sampled after ``context`` tokens, of which ``prompt`` are the row's prompt."""
        return min(self.max_model_len - context, self.response_length - (context - prompt))

    def for_request(self, ask: Ask, limit: int) -> dict[str, Any]:
        """Make verl's parameters of one request."""
        params = {**self.params, "max_tokens": limit}
        if ask.stop:
            params |= {"stop": list(ask.stop), self.keep_stop: True}
        if self.stop_token_ids:
            params["stop_token_ids"] = sorted({*(params.get("stop_token_ids") or ()), *self.stop_token_ids})
        return params


class Ignored:
    """Patterns of text that may differ between a context and its recording.

    Args:
        patterns: regular expressions.
        tokenizer: the model's.
    """

    def __init__(self, patterns: Sequence[str], tokenizer: Any) -> None:
        self._pattern = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
        self._tokenizer = tokenizer

    def plain(self, ids: list[int]) -> str:
        """Decode the ids, with a blank in the place of every match."""
        return self._pattern.sub(" ", str(self._tokenizer.decode(ids)))


class Trajectory:
    """Answers the requests of one run of an agent.

    Args:
        client: verl's LLM client, or the one that a tree uses instead.
        request_id: sticky routing id of its requests.
        contexts: makes token ids.
        reader: reads answers.
        sampling: the recipe's.
        config: limits.
        executor: where texts are made into tokens.
        ignored: patterns that may differ between a context and its recording.

    Attributes:
        conversation: its calls.
        refused: requests that a limit refused.
        generate_s: seconds that the engine took.
        failed: is set when the client's failure ends the trajectory.
        failure: error of the client.
    """

    def __init__(
        self,
        client: Any,
        request_id: str,
        contexts: ContextBuilder,
        reader: AnswerReader,
        sampling: Sampling,
        config: GatewayConfig,
        executor: Executor | None = None,
        ignored: Ignored | None = None,
    ) -> None:
        self._client, self._request_id = client, request_id
        self._contexts, self._reader, self._sampling, self._config = contexts, reader, sampling, config
        self._executor, self._ignored = executor, ignored
        self._slots = asyncio.Semaphore(config.parallel_calls)
        self._asked = self._sampled = 0
        self._prompts: dict[int, int] = {}
        self._closed = False
        self._running: set[asyncio.Task[Any]] = set()
        self._sampled_by: set[asyncio.Task[Any]] = set()
        self.conversation = Conversation()
        self.refused = 0
        self.generate_s = 0.0
        self.failed = asyncio.Event()
        self.failure: Exception | None = None

    async def close(self) -> None:
        """Answer nothing any more; requests that the engine has not answered yet are dropped and have ended then."""
        self._closed = True
        for task in self._running - self._sampled_by:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def answer(self, ask: Ask) -> Answer:
        """Answer a request; a caller that is cancelled before the engine has answered leaves no call.

        Raises:
            ApiError: it cannot be answered: a limit, a context without room, an engine that failed.
        """
        task = asyncio.create_task(self._answer(ask))
        self._running.add(task)
        task.add_done_callback(self._forget)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # by close()
                raise _ended() from None
            if task not in self._sampled_by:
                task.cancel()
            raise

    def _forget(self, task: asyncio.Task[Answer]) -> None:
        self._running.discard(task)
        self._sampled_by.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone

    async def _answer(self, ask: Ask) -> Answer:
        async with self._slots:
            self._check_limits()
            self._asked += 1
            request = self.conversation.find(ask.messages, json.dumps(ask.tools, sort_keys=True))
            context, after = await self._context(request, ask)
            prompt = len(context) if after is None else self._prompts.get(id(after), len(context))
            limit = self._limit(ask, len(context), prompt)
            output = await self._generate(context, self._sampling.for_request(ask, limit))
            known = _fingerprint(context, after)
            answer = await self._reader.read(ask, context, known, output, limit)
            extra = output.extra_fields
            versions = (extra.get("min_global_steps"), extra.get("max_global_steps"))
            fingerprint = known.followed_by(answer.sampled)
            call = Call(context, answer.sampled, answer.log_probs, after, versions, fingerprint)
            self._sampled += len(answer.sampled)
            self._prompts[id(call)] = prompt
            self.conversation.add(request, answer.message, call)
            return answer

    async def _context(self, request: Request, ask: Ask) -> tuple[list[int], Call | None]:
        """Make the context of a request, and find the call that it continues token by token.

        A few new messages take a quarter of a millisecond, less than a hand-over to another thread.
        """
        if request.after is not None and sum(len(each.content) for each in request.new) < SHORT_TEXT:
            context, after = self._contexts.build(request, ask.tools)
        else:
            loop = asyncio.get_running_loop()
            context, after = await loop.run_in_executor(self._executor, self._contexts.build, request, ask.tools)
        recorded = self._recorded(context)
        if after is not None and recorded is not context and recorded[: len(after.tokens)] != after.tokens:
            after = None
        return recorded, after

    def _check_limits(self) -> None:
        if self._closed or self.failure is not None:
            raise _ended()
        config = self._config
        for name, limit, used in (
            ("max_calls", config.max_calls, self._asked),
            ("max_tokens", config.max_tokens, self._sampled),
        ):
            if limit is not None and used >= limit:
                self.refused += 1
                raise ApiError(429, f"The limit {name}={limit} of this trajectory is reached.", code=f"{name}_reached")

    def _limit(self, ask: Ask, context: int, prompt: int) -> int:
        room = self._sampling.room(context, prompt)
        if room < 1:
            self.refused += 1
            raise too_long(context, context + room)
        return min(room, ask.max_tokens or room)

    async def _generate(self, context: list[int], params: dict[str, Any]) -> Any:
        started = time.monotonic()
        try:
            output = await self._client.generate(
                request_id=self._request_id, prompt_ids=context, sampling_params=params
            )
        except Exception as error:
            self._fail(error)
            raise ApiError(503, "The policy's engine does not answer, so this trajectory ends.") from error
        finally:
            self.generate_s += time.monotonic() - started
        if not output.token_ids:
            self._fail(EmptyTurnError("The engine returned an answer without tokens (request aborted?)."))
            raise ApiError(503, "The policy's engine aborted the request, so this trajectory ends.")
        task = asyncio.current_task()
        assert task is not None
        self._sampled_by.add(task)
        return output

    def _recorded(self, context: list[int]) -> list[int]:
        """Return the recorded context that differs from this one only in ignored text; without one, this context."""
        if self._ignored is None:
            return context
        unasked: list[list[int]] = getattr(self._client, "unasked", [])
        if not unasked or context in unasked:
            return context
        plain = self._ignored.plain(context)
        return next((known for known in unasked if self._ignored.plain(known) == plain), context)

    def _fail(self, error: Exception) -> None:
        if self.failure is None:
            self.failure = error
        self.failed.set()


def _fingerprint(context: list[int], after: Call | None) -> Fingerprint:
    if after is None:
        return Fingerprint().followed_by(context)
    return after.fingerprint.followed_by(context[len(after.context) + len(after.sampled) :])


def _ended() -> ApiError:
    return ApiError(403, "This trajectory has ended; nothing is answered any more.", code="trajectory_ended")
