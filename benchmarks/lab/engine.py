"""The laboratory's engine: an LLM client for many agent loops at once, in one thread.

Loops ask as they would ask vLLM (`generate`). When all of them wait, what they asked for is decoded together as one
*wave*, with a key-value cache that knows every context of the policy's current weights, so that neither a later turn
nor an expansion pays for its prefix. A wave's rows stop each at its own end.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import Qwen3ForCausalLM

from benchmarks.lab.model import Weights, hidden_states, logits
from verl_atpo.schemes.a2tgpo.questions import CACHED, LOG_PROBS

_QUIET = 6
"""Rounds of the event loop without a new request after which all loops are taken to wait."""
_LARGEST_WAVE = 256
_COMPACT = 0.7
"""Rows that have ended leave a wave's cache when at most this share continues."""
_GROWTH = 16
"""Tokens by which a wave's cache grows when it is full."""

Result = TypeVar("Result")


@dataclasses.dataclass
class Answer:
    """Answer to a loop: the fields of verl's ``TokenOutput`` that matter here.

    Attributes:
        token_ids: sampled, the end token included.
        log_probs: of each under the policy, nats.
        entropies: of what each was drawn from, nats.
        extra_fields: of a prompt that was to be scored, its log-probs and what the cache held of it.
    """

    token_ids: list[int]
    log_probs: list[float]
    entropies: list[float]
    extra_fields: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class _Request:
    prompt: tuple[int, ...]
    limit: int
    scored: bool
    future: asyncio.Future[Answer]


class Engine:
    """Samples at temperature 1 from a model.

    Args:
        model: whose weights; :meth:`refresh` after they have changed.
        seed: of everything that is sampled.
        end: token that ends a turn.

    Attributes:
        sampled_tokens: sampled so far.
        random: where chance comes from; its state belongs into a checkpoint.
    """

    def __init__(self, model: Qwen3ForCausalLM, seed: int, end: int) -> None:
        self.sampled_tokens = 0
        self.random = torch.Generator().manual_seed(seed)
        self._model, self._end = model, end
        self._waiting: list[_Request] = []
        self.refresh()

    def refresh(self) -> None:
        """Take the model's current weights; contexts of earlier ones are dropped."""
        with torch.no_grad():
            self._weights = Weights.of(self._model)
        self.forget()

    def forget(self) -> None:
        """Drop all contexts, which only saves memory."""
        self._cache: dict[tuple[int, ...], torch.Tensor] = {}
        self._lengths: set[int] = set()

    async def generate(
        self, request_id: str, *, prompt_ids: Sequence[int], sampling_params: dict[str, Any], **_: Any
    ) -> Answer:
        """Sample one turn; ``sampling_params["max_tokens"]`` is its limit.

        With ``prompt_logprobs`` the prompt is scored instead, as by vLLM, and nothing is drawn: the answer is the end.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        scored = sampling_params.get(LOG_PROBS) is not None
        self._waiting.append(_Request(tuple(prompt_ids), sampling_params["max_tokens"], scored, future))
        return await future

    async def serve(self, loops: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
        """Run agent loops (or growers of trees) to their end and return what they return, in their order."""
        everything = asyncio.gather(*loops)
        quiet = 0
        while not everything.done():
            before = len(self._waiting)
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._waiting) == before else 0
            if quiet >= _QUIET and self._waiting:
                wave, self._waiting = self._waiting[:_LARGEST_WAVE], self._waiting[_LARGEST_WAVE:]
                drawn = [request for request in wave if not request.scored]
                for request, answer in zip(drawn, self._decode(drawn) if drawn else [], strict=True):
                    request.future.set_result(answer)
                # Once the contexts are known: what is scored begins with one of them.
                scored = [request for request in wave if request.scored]
                for request, answer in zip(scored, self._score(scored) if scored else [], strict=True):
                    request.future.set_result(answer)
                quiet = 0
        return list(await everything)

    @torch.inference_mode()
    def _decode(self, wave: list[_Request]) -> list[Answer]:
        """Answers of a wave: contexts first, each distinct one once, then token by token."""
        contexts = list(dict.fromkeys(request.prompt for request in wave))
        place = {context: number for number, context in enumerate(contexts)}
        cache, following = self._prefill(contexts)
        at_context = torch.tensor([place[request.prompt] for request in wave])
        cache, following = cache[:, at_context], following[at_context]
        length = torch.tensor([len(request.prompt) for request in wave])
        rows = list(range(len(wave)))  # those still in the cache; some of them may have ended
        answers = [Answer([], [], []) for _ in wave]
        going = set(rows)
        while True:
            tokens, log_probs, entropies = self._sample(following)
            for at, row in enumerate(rows):
                if row not in going:
                    continue
                answer = answers[row]
                answer.token_ids.append(tokens[at])
                answer.log_probs.append(log_probs[at])
                answer.entropies.append(entropies[at])
                if tokens[at] == self._end or len(answer.token_ids) >= wave[row].limit:
                    going.remove(row)
                    self._keep(wave[row].prompt + tuple(answer.token_ids[:-1]), cache[:, at])
            if not going:
                break
            fed = torch.tensor(tokens)
            if len(going) <= _COMPACT * len(rows):
                keep = [at for at, row in enumerate(rows) if row in going]
                rows = [rows[at] for at in keep]
                cache, fed, length = cache[:, keep], fed[keep], length[keep]
            cache, following = self._step(cache, fed, length)
            length = length + 1
        self.sampled_tokens += sum(len(answer.token_ids) for answer in answers)
        return answers

    @torch.inference_mode()
    def _score(self, wave: list[_Request]) -> list[Answer]:
        """Log-probs of prompts' tokens, those that the cache holds left out, and the entry that vLLM has at the end."""
        prompts = [request.prompt for request in wave]
        known = [self._longest_known(prompt) for prompt in prompts]
        _, hidden = self._extend(prompts, known)
        of_all = logits(self._weights, hidden).log_softmax(dim=-1)
        answers = []
        for row, (prompt, done) in enumerate(zip(prompts, known, strict=True)):
            following = torch.tensor(prompt[done + 1 :])
            found = of_all[row, : len(following)].gather(1, following[:, None])
            fields = {LOG_PROBS: [*found.tolist(), [0.0]], CACHED: done}
            answers.append(Answer([self._end], [0.0], [0.0], fields))
        return answers

    def _sample(self, following: torch.Tensor) -> tuple[list[int], list[float], list[float]]:
        """Tokens, their log-probs, and the entropies of what they are drawn from, of logits (B, V)."""
        log_probs = following.log_softmax(dim=-1)
        probabilities = log_probs.exp()
        tokens = torch.multinomial(probabilities, 1, generator=self.random)
        entropies = torch.special.entr(probabilities).sum(dim=-1)
        return tokens[:, 0].tolist(), log_probs.gather(1, tokens)[:, 0].tolist(), entropies.tolist()

    def _prefill(self, contexts: list[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Cache (2 * layers, B, H, L, D) of distinct contexts, and the logits of what follows each, (B, V)."""
        known = [self._longest_known(context) for context in contexts]
        cache, hidden = self._extend(contexts, known)
        last = torch.tensor([len(context) - done - 1 for context, done in zip(contexts, known, strict=True)])
        for row, context in enumerate(contexts):
            self._keep(context[:-1], cache[:, row])
        return cache, logits(self._weights, hidden[torch.arange(len(contexts)), last])

    def _extend(self, contexts: list[tuple[int, ...]], known: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Cache of contexts, and hidden states (B, S, width) of their tokens after the ``known`` ones."""
        width = max(len(context) - done for context, done in zip(contexts, known, strict=True))
        shape = (2 * len(self._weights.layers), len(contexts), self._weights.heads)
        longest = max(done + width for done in known)
        cache = torch.zeros(*shape, longest + _GROWTH, self._weights.head_dim)
        ids = torch.zeros(len(contexts), width, dtype=torch.long)
        for row, (context, done) in enumerate(zip(contexts, known, strict=True)):
            if done:
                cache[:, row, :, :done] = self._cache[context[:done]][:, :, :done]
            ids[row, : len(context) - done] = torch.tensor(context[done:])
        start = torch.tensor(known)
        return cache, self._forward(cache, ids, start[:, None] + torch.arange(width), longest)

    def _step(
        self, cache: torch.Tensor, tokens: torch.Tensor, length: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Feed one token a row, (B,), at positions (B,)."""
        longest = int(length.max()) + 1
        if longest > cache.shape[3]:
            cache = torch.nn.functional.pad(cache, (0, 0, 0, _GROWTH))
        hidden = self._forward(cache, tokens[:, None], length[:, None], longest)
        return cache, logits(self._weights, hidden[:, 0])

    def _forward(self, cache: torch.Tensor, ids: torch.Tensor, positions: torch.Tensor, longest: int) -> torch.Tensor:
        """Hidden states of new tokens, (B, S), whose keys and values go into the cache."""
        visible = (torch.arange(longest) <= positions[..., None])[:, None]
        rows = torch.arange(len(ids))[:, None]

        def attend(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            keys, values = cache[2 * layer], cache[2 * layer + 1]
            keys[rows, :, positions] = key.transpose(1, 2)
            values[rows, :, positions] = value.transpose(1, 2)
            return scaled_dot_product_attention(query, keys[:, :, :longest], values[:, :, :longest], visible)

        return hidden_states(self._weights, ids, positions, attend)

    def _longest_known(self, context: tuple[int, ...]) -> int:
        """Count its leading tokens in the cache; the last token never counts, because its logits are needed."""
        lengths = sorted((length for length in self._lengths if length < len(context)), reverse=True)
        return next((length for length in lengths if context[:length] in self._cache), 0)

    def _keep(self, tokens: tuple[int, ...], cache: torch.Tensor) -> None:
        if tokens not in self._cache:
            self._cache[tokens] = cache[:, :, : len(tokens)].clone()
            self._lengths.add(len(tokens))
