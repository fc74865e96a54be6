"""Log-probs of the gold answer in the contexts of a tree, requested from the engine while the tree grows.

The text ``information_gain.prompt``, with the gold answer in it, is appended to a context; the engine returns the
log-prob of each of these tokens (``prompt_logprobs``) and samples one token that is not used. Each distinct context of
a tree is asked once, in a task of its own: no trajectory waits. An expansion that starts in a known context, and a
replayed prefix, ask nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from verl_atpo.config import ConfigError, GrowthConfig
from verl_atpo.failure import EngineOutage, brief
from verl_atpo.retry import Retry
from verl_atpo.schemes.a2tgpo.settings import PLACE
from verl_atpo.tree.recording import BEGIN, Generation
from verl_atpo.tree.tree import TurnTree

LOG_PROBS = "prompt_logprobs"
CACHED = "num_cached_tokens"
"""verl's extra fields of an answer of the engine."""


@dataclasses.dataclass
class AnswerCosts:
    """Cost of asking for the gold answers of a tree.

    Attributes:
        requests: number of requests to the engine, repeated ones included.
        tokens: tokens in these requests.
        cached: requested tokens that were in the engine's prefix cache.
        unknown: contexts without a log-prob: no room for the answer, or the engine returned none.
    """

    requests: int = 0
    tokens: int = 0
    cached: int = 0
    unknown: int = 0


@dataclasses.dataclass(frozen=True)
class Answers:
    """Log-probs of the gold answer in the contexts of a tree.

    Attributes:
        log_probs: by node index, mean log-prob of its tokens in the context that the turn was sampled in, nats/token;
            ``None`` where it is not known, and for the root.
        costs: cost of the requests.
    """

    log_probs: list[float | None]
    costs: AnswerCosts


@dataclasses.dataclass(frozen=True)
class PromptedAnswer:
    """The tokens that follow a context: the prompt's words and the gold answer.

    Attributes:
        token_ids: ids of the text before the answer and of the answer itself, to its last token.
        answer: the first of its tokens that the gold answer has a part in.
    """

    token_ids: list[int]
    answer: int

    @classmethod
    def of(cls, tokenizer: Any, prompt: str, answer: str) -> PromptedAnswer:
        """Put an answer into its place in a prompt.

        The text is made into tokens as a whole, the words after the answer included, as the model would write it. A
        token that the answer shares with the words around it counts as the answer's.

        Args:
            tokenizer: the model's; it has to give the places of tokens in a text.
            prompt: a text with ``{answer}`` in it once.
            answer: the gold answer, not empty.
        """
        before, _, after = prompt.partition(PLACE)
        text = before + answer + after
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        begin, end = len(before), len(before) + len(answer)
        own = [at for at, (left, right) in enumerate(found["offset_mapping"]) if left < end and right > begin]
        return cls(list(found["input_ids"][: own[-1] + 1]), own[0])


class GoldAnswers:
    """Questions of one tree.

    Args:
        client: verl's ``LLMServerClient``, or any object with its ``generate``.
        request_id: sticky routing id of the tree, so that a context meets its warm prefix cache.
        answer: the gold answer in its prompt.
        growth: retry settings for requests that an outage ended.
        longest: tokens of the longest prompt that the engine takes.

    Attributes:
        costs: cost of the requests so far.
    """

    def __init__(
        self, client: Any, request_id: str, answer: PromptedAnswer, growth: GrowthConfig, longest: float = math.inf
    ) -> None:
        self._client, self._request_id, self._answer = client, request_id, answer
        self._growth, self._longest = growth, longest
        self._asked: dict[tuple[int, ...], asyncio.Task[float | None]] = {}
        self.costs = AnswerCosts()

    def ask(self, context: Sequence[int]) -> None:
        """Start to ask for the answer's log-prob in a context, unless it is known or requested already."""
        key = tuple(context)
        if key not in self._asked:
            self._asked[key] = asyncio.create_task(self._log_prob(list(context)))

    async def settle(self, tree: TurnTree) -> Answers:
        """Wait until all that was asked is answered; log-probs by node of a grown tree.

        Raises:
            EngineOutage: the engine did not answer, the new attempts included.
            ConfigError: the engine gives no log-probs of a prompt.
        """
        await asyncio.gather(*self._asked.values())
        return Answers(self._of_nodes(tree), self.costs)

    async def cancel(self) -> None:
        """Stop asking, and wait until every request has ended."""
        for task in self._asked.values():
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)

    def _of_nodes(self, tree: TurnTree) -> list[float | None]:
        """List the log-prob of each node's context, by index."""
        known: list[float | None] = [None]
        ids: dict[int, list[int]] = {id(BEGIN): []}  # context and answer of every generation, by identity
        latest: list[Generation] = [BEGIN]
        for node in tree.nodes[1:]:
            before = latest[node.parent]
            for number, generation in enumerate(tree.turn(node.index).generations):
                context = generation.asked_with(ids[id(generation.before or before)])
                if number == 0:
                    task = self._asked.get(tuple(context))
                    known.append(None if task is None else task.result())
                ids[id(generation)] = context + generation.output.token_ids
                before = generation
            latest.append(before)
        return known

    async def _log_prob(self, context: list[int]) -> float | None:
        """Return the mean log-prob of the answer's tokens, nats/token; ``None`` where there is no room for them."""
        prompt = context + self._answer.token_ids
        first = len(context) + self._answer.answer
        if len(prompt) > self._longest:
            self.costs.unknown += 1
            return None
        output = await self._generate(prompt, cached=True)
        # What the engine took from its cache it computed no log-probs of: those of token t come with token t - 1.
        if output.extra_fields.get(CACHED, first) >= first:
            output = await self._generate(prompt, cached=False)
        # An entry per token except the first, and one more at the end; cached ones may lack it, so count from the end.
        found = [row[0] for row in output.extra_fields[LOG_PROBS][first - len(prompt) - 1 : -1]]
        mean = math.fsum(found) / len(found)
        if not math.isfinite(mean):
            self.costs.unknown += 1
            return None
        return mean

    async def _generate(self, prompt: list[int], cached: bool) -> Any:
        # A TypeError comes from an engine that does not know these settings.
        policy = Retry(
            self._growth.max_regrows, self._growth.regrow_delay_s, lambda error: not isinstance(error, TypeError)
        )
        try:
            output = await policy.call(lambda: self._generate_once(prompt, cached))
        except TypeError:
            raise
        except Exception as error:
            raise EngineOutage(f"The engine did not say how likely the answer is: {brief(error)}") from error
        self.costs.cached += output.extra_fields.get(CACHED) or 0
        if LOG_PROBS not in output.extra_fields:
            raise ConfigError(
                "The engine gave no log-probs of a prompt, which algorithm.adv_estimator=a2tgpo needs: set "
                "actor_rollout_ref.rollout.name=vllm and trainer.v1.trainer_mode=sync, or use +atpo=tree."
            )
        return output

    async def _generate_once(self, prompt: list[int], cached: bool) -> Any:
        sampling = {LOG_PROBS: 0, "max_tokens": 1, "detokenize": False, "skip_reading_prefix_cache": not cached}
        self.costs.requests += 1
        self.costs.tokens += len(prompt)
        output = await self._client.generate(self._request_id, prompt_ids=prompt, sampling_params=sampling)
        if not output.token_ids:
            raise EngineOutage("the request was given up")
        return output
