"""Guard of live tool calls: time-out, retries, a limit on concurrent calls, a memo, bounded text."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import json
import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from async_lru import alru_cache
from transformers import PreTrainedTokenizerBase

from verl_atpo.config import ObservationCut, ToolConfig
from verl_atpo.deadlines.activity import Activity
from verl_atpo.deadlines.within import within
from verl_atpo.failure import OUTAGES, ToolOutage, TransientToolError, brief, is_outage, is_transient
from verl_atpo.retry import Retry
from verl_atpo.tools.answer import answer_of, compact, fixed, settled
from verl_atpo.tools.text import ControlTokens

logger = logging.getLogger(__name__)

HOUSEKEEPING_S = 120.0
"""Bound on ``snapshot`` and ``close``, which no call of the model waits for, where ``tools.timeout_s`` is null."""
Live = Callable[[], Awaitable[Any]]


_LONGEST_TRACEBACK = 2000


@dataclasses.dataclass
class CallCounts:
    """Counts of tool calls by their outcome.

    Attributes:
        calls: calls made; those answered from a recording or a memo are not.
        retries: repeated attempts.
        errors: calls that failed: the model's own mistakes, answered by tool or loop, or a broken tool.
        outages: calls whose infrastructure failed past its retries.
        over_limit: calls refused because of ``tools.max_calls``.
        memo_hits: calls answered from the memo.
        states_opened: states of stateful tools that were made or restored.
        states_closed: opened states that were released.
        ended_by_invalid: trajectories that ended because of ``tools.max_consecutive_invalid_calls``.
        seconds: time that loops waited for calls, attempts and waits included.
        first_error: traceback of the first of ``errors``.
    """

    calls: int = 0
    retries: int = 0
    errors: int = 0
    outages: int = 0
    over_limit: int = 0
    memo_hits: int = 0
    states_opened: int = 0
    states_closed: int = 0
    ended_by_invalid: int = 0
    seconds: float = 0.0
    first_error: str | None = None

    def add(self, other: CallCounts) -> None:
        """Count ``other`` in."""
        first = self.first_error or other.first_error
        for field in dataclasses.fields(self)[:-1]:
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        self.first_error = first

    def refused(self, text: str) -> None:
        """Count a call that was answered before it reached its tool, and keep the first one's answer."""
        self.errors += 1
        self.first_error = self.first_error or text[:_LONGEST_TRACEBACK]

    def raised(self, error: Exception) -> None:
        """Count a call that the tool refused, and keep the first one's traceback."""
        self.errors += 1
        if self.first_error is None:
            self.first_error = "".join(traceback.format_exception(error, limit=-4, chain=False))[:_LONGEST_TRACEBACK]


@dataclasses.dataclass(frozen=True)
class _Call:
    """Key of the memo: the tool and its arguments, the same for all trajectories."""

    tool: str
    arguments: str
    live: Live = dataclasses.field(compare=False)


class CallMemo:
    """Memo of stateless calls; equal calls at the same time wait for one answer, errors are not remembered."""

    def __init__(self, size: int) -> None:
        self._call = alru_cache(maxsize=size)(self._make)

    @staticmethod
    async def _make(call: _Call) -> Any:
        return await call.live()

    async def get(self, tool: str, arguments: dict[str, Any], live: Live) -> Any:
        """Return the result of an equal earlier call, else that of ``live``."""
        key = json.dumps(arguments, sort_keys=True, ensure_ascii=False, default=repr)
        return await self._call(_Call(tool, key, live))


class ToolGuard:
    """The guard of all tool calls in one rollout worker.

    Args:
        config: settings.
        tokenizer: the model's, to measure observations and to know its control tokens.

    Attributes:
        totals: counts of the calls of all runs that ended since :meth:`take_totals`.
    """

    def __init__(self, config: ToolConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config = config
        self.totals = CallCounts()
        self._tokenizer = tokenizer
        self._control_tokens = ControlTokens(tokenizer)
        limit = config.concurrency
        self._slots: dict[str, asyncio.Semaphore] | None = (
            None if limit is None else collections.defaultdict(lambda: asyncio.Semaphore(limit))
        )

    def take_totals(self) -> CallCounts:
        """Return ``totals`` and reset them to zero."""
        taken, self.totals = self.totals, CallCounts()
        return taken

    async def call(self, tool: str, live: Live, counts: CallCounts, *, retry: bool) -> Any:
        """Make one call.

        Args:
            tool: name of the tool.
            live: makes one attempt.
            counts: counter of the trajectory.
            retry: whether a failed attempt had no effect that a further one would repeat; without it only a
                ``TransientToolError``, which says so itself, is tried again.

        Returns:
            What the tool returned, as :func:`verl_atpo.tools.answer.fixed` makes it.

        Raises:
            ToolOutage: the infrastructure failed past its retries.
            Exception: any other error of the tool.
        """
        attempts = 1

        def failed(error: Exception, calls: int) -> None:
            nonlocal attempts
            attempts = calls + 1
            counts.retries += 1

        may_pass = is_transient if retry else lambda error: isinstance(error, TransientToolError)
        delay_s = self.config.retry_delay_s
        policy = Retry(self.config.retries, delay_s, may_pass, jitter_s=delay_s)
        try:
            return await policy.call(lambda: self._one_try(tool, live), failed)
        except Exception as error:
            if isinstance(error, OUTAGES) or not is_outage(error):
                raise
            times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
            raise ToolOutage(f"Tool {tool!r} is out after {times}: {brief(error)}") from error

    async def _one_try(self, tool: str, live: Live) -> Any:
        slot = contextlib.nullcontext() if self._slots is None else self._slots[tool]
        async with slot:

            async def answer() -> Any:
                return fixed(await settled(await live()))

            return await self.bounded(f"Tool {tool!r}", answer)

    async def bounded(self, name: str, live: Live, at_most_s: float | None = None) -> Any:
        """Await code of a tool for ``tools.timeout_s`` at most, also if it ignores its cancellation.

        Args:
            name: name of the code, for messages.
            live: starts it.
            at_most_s: bound where ``tools.timeout_s`` is null.

        Raises:
            TimeoutError: it took longer.
            Exception: its error; see :func:`verl_atpo.deadlines.within.within`.
        """

        async def start() -> Any:
            return await live()  # what is raised before there is anything to await is the tool's too

        seconds = at_most_s if self.config.timeout_s is None else self.config.timeout_s
        return await within(seconds, Activity(name), start())

    def observation(self, result: Any) -> Any:
        """Make the text of a tool's answer harmless and short enough for the loop.

        Args:
            result: input of :func:`verl_atpo.tools.answer.answer_of`.

        Returns:
            Numbers and None unchanged, the text of an answer that is only text, or verl's triple.
        """
        if fixed(result) is result and not isinstance(result, str):
            return result
        response, reward, metrics = answer_of(result)
        if response.text is not None:
            response = response.model_copy(update={"text": self.text(response.text)})
        return compact((response, reward, metrics))

    def text(self, text: str) -> str:
        """Remove live control tokens from ``text`` and cut it to its limit; halves of surrogates become ?."""
        text = self._control_tokens.broken(text)
        limit = self.config.max_observation_tokens
        if limit is None or len(text.encode()) <= limit:  # a token is a byte or more
            return text
        return self._cut(text, limit)

    def _cut(self, text: str, limit: int) -> str:
        spans = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        if len(spans) <= limit:
            return text
        match self.config.observation_cut:
            case ObservationCut.TAIL:
                head, tail = limit, 0
            case ObservationCut.HEAD:
                head, tail = 0, limit
            case ObservationCut.MIDDLE:
                head, tail = limit - limit // 2, limit // 2
        begin = text[: spans[head - 1][1]] if head else ""
        end = text[spans[-tail][0] :] if tail else ""
        return f"{begin}\n[{len(spans) - limit} tokens left out]\n{end}".strip("\n")
