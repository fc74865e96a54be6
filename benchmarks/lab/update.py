"""One step of training: advantages by the package's estimator or verl's, losses likewise, every token computed once.

Shapes: rows R of a mini-batch, response tokens T, prompts G, distinct tokens N of each.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from operator import itemgetter

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import Qwen3ForCausalLM
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage, get_policy_loss_fn
from verl.workers.config import ActorConfig

from benchmarks.lab.arms import Settings
from benchmarks.lab.model import Weights, hidden_states, logits
from benchmarks.lab.rollout import Row
from verl_atpo.method.estimator import estimator_named
from verl_atpo.packed.trie import Trie, build_trie

_CLIP_GRADIENT = 1.0


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows as tensors, right-padded, (R, T).

    Attributes:
        mask: 1 on sampled tokens.
        old_log_probs: as the engine said, nats; 0 elsewhere.
        rewards: token-level.
        group: (R,) number of each row's prompt.
    """

    mask: torch.Tensor
    old_log_probs: torch.Tensor
    rewards: torch.Tensor
    group: np.ndarray

    @classmethod
    def of(cls, groups: Sequence[Sequence[Row]]) -> Batch:
        """The rows of some prompts."""
        rows = [row for group in groups for row in group]
        width = max(len(row.trajectory.response_ids) for row in rows)

        def padded(lists: Sequence[Sequence[float]]) -> torch.Tensor:
            return torch.tensor([[*each, *[0.0] * (width - len(each))] for each in lists])

        return cls(
            padded([row.trajectory.response_mask for row in rows]),
            padded([row.trajectory.log_probs for row in rows]),
            padded([row.token_rewards for row in rows]),
            np.repeat(np.arange(len(groups)), [len(group) for group in groups]),
        )


def advantages(batch: Batch, settings: Settings) -> torch.Tensor:
    """(R, T) advantages of all rows of a step."""
    if settings.estimator == "grpo":
        return compute_grpo_outcome_advantage(
            batch.rewards, batch.mask, batch.group, norm_adv_by_std_in_grpo=settings.scaled
        )[0]
    return estimator_named(settings.estimator)(batch.rewards, batch.mask, batch.group, {"atpo": settings.atpo})[0]


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of a step's training.

    Attributes:
        in_rows: tokens of all rows, prompts included.
        distinct: tokens of the tries of its prompts.
        clipped_share: tokens whose gradient the clip range took, mean over its mini-batches.
    """

    in_rows: int
    distinct: int
    clipped_share: float


class Learner:
    """The policy and its optimizer, verl's AdamW.

    Args:
        model: trained in place.
        settings: the arm's.
    """

    def __init__(self, model: Qwen3ForCausalLM, settings: Settings) -> None:
        self._model, self._settings = model, settings
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
        self._rows = settings.mini_batch * settings.atpo.expansion.leaves
        low, high = settings.clip
        self._loss = get_policy_loss_fn(settings.loss)
        self._config = ActorConfig(
            strategy="fsdp2",
            use_dynamic_bsz=True,
            rollout_n=1,
            clip_ratio_low=low,
            clip_ratio_high=high,
            loss_agg_mode=settings.aggregation,
        )
        self._config.global_batch_info.update(dp_size=1, global_batch_size=self._rows)

    def step(self, groups: Sequence[Sequence[Row]]) -> Cost:
        """Train on the rows of a step's prompts, mini-batch by mini-batch.

        As in verl, a mini-batch is a number of rows, and the last one is filled up with rows that train nothing.
        """
        batch = Batch.of(groups)
        given = advantages(batch, self._settings)
        in_rows = distinct = 0
        clipped = []
        for begin, pieces in mini_batches(groups, self._rows):
            rows = slice(begin, begin + sum(map(len, pieces)))
            tries = [trie_of(piece) for piece in pieces]
            in_rows += sum(len(trie.slot_T) for trie in tries)
            distinct += sum(map(len, tries))
            self.optimizer.zero_grad(set_to_none=False)
            # Without an advantage the gradient is 0, and the optimizer continues with its momentum as verl's does.
            if given[rows].any():
                clipped.append(self._backward(pieces, tries, batch, rows, given))
                torch.nn.utils.clip_grad_norm_(self._model.parameters(), _CLIP_GRADIENT)
            self.optimizer.step()
        return Cost(in_rows, distinct, sum(clipped) / max(1, len(clipped)))

    def gradient(self, groups: Sequence[Sequence[Row]]) -> torch.Tensor:
        """(P,) gradient of the loss of a step's prompts taken together; trains nothing."""
        batch = Batch.of(groups)
        given = advantages(batch, self._settings)
        self.optimizer.zero_grad(set_to_none=False)
        self._backward(groups, [trie_of(group) for group in groups], batch, slice(None), given)
        return torch.cat([weight.grad.flatten() for weight in self._model.parameters() if weight.grad is not None])

    def _backward(
        self,
        pieces: Sequence[Sequence[Row]],
        tries: Sequence[Trie],
        batch: Batch,
        rows: slice,
        given: torch.Tensor,
    ) -> float:
        """Adds the gradient of some rows to the parameters'; returns the share of tokens that were clipped."""
        log_probs = response_log_probs(Weights.of(self._model), pieces, tries, batch.mask.shape[1])
        loss, metrics = self._loss(
            old_log_prob=batch.old_log_probs[rows],
            log_prob=log_probs,
            advantages=given[rows],
            response_mask=batch.mask[rows],
            loss_agg_mode=self._settings.aggregation,
            config=self._config,
        )
        loss.backward()
        return float(metrics["actor/pg_clipfrac"])


def mini_batches(groups: Sequence[Sequence[Row]], size: int) -> Iterator[tuple[int, list[list[Row]]]]:
    """Stretches of up to ``size`` rows: the number of the first one, and the rows by prompt."""
    rows = [(at, row) for at, group in enumerate(groups) for row in group]
    for begin in range(0, len(rows), size):
        pieces = itertools.groupby(rows[begin : begin + size], key=itemgetter(0))
        yield begin, [[row for _, row in piece] for _, piece in pieces]


def trie_of(group: Sequence[Row]) -> Trie:
    """Distinct tokens of the rows of a prompt, the prompt's included."""
    rows = [np.array(row.trajectory.prompt_ids + row.trajectory.response_ids) for row in group]
    return build_trie(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))


def response_log_probs(
    weights: Weights, groups: Sequence[Sequence[Row]], tries: Sequence[Trie], width: int
) -> torch.Tensor:
    """(R, T) log-probabilities of the responses' tokens, nats; 0 after their ends.

    Args:
        weights: of the policy.
        groups: rows of some prompts.
        tries: of each prompt's rows, prompts' tokens included.
        width: T.
    """
    longest = max(map(len, tries))

    def stacked(name: str, fill: int) -> torch.Tensor:
        arrays = [getattr(trie, name) for trie in tries]
        padded = [np.pad(each, (0, longest - len(each)), constant_values=fill) for each in arrays]
        return torch.from_numpy(np.stack(padded))

    token, depth, parent, end = (stacked(name, 0) for name in ("token_N", "depth_N", "parent_N", "end_N"))
    order = torch.arange(longest)
    visible = (order <= order[:, None]) & (order[:, None] < end[:, None, :])
    visible |= torch.eye(longest, dtype=torch.bool)  # a padded token sees itself

    def attend(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(query, key, value, visible[:, None])

    hidden = hidden_states(weights, token, depth, attend)
    of_all = logits(weights, hidden).log_softmax(dim=-1)
    groups_at = torch.arange(len(tries))[:, None]
    log_prob_N = of_all[groups_at, parent.clamp(min=0), token]
    place = torch.zeros(sum(map(len, groups)), width, dtype=torch.long)
    inside = torch.zeros_like(place, dtype=torch.bool)
    row = 0
    for number, (group, trie) in enumerate(zip(groups, tries, strict=True)):
        begin = 0
        for each in group:
            asked, said = len(each.trajectory.prompt_ids), len(each.trajectory.response_ids)
            slots = trie.slot_T[begin + asked : begin + asked + said]
            place[row, :said] = torch.from_numpy(slots) + number * longest
            inside[row, :said] = True
            begin, row = begin + asked + said, row + 1
    return torch.where(inside, log_prob_N.flatten()[place], 0.0)
