"""The warm start: next-token prediction on the demonstrations' turns."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from transformers import Qwen3ForCausalLM

from verl_atpo.tiny.demo import Demo

IGNORED = -100

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class TrainSettings:
    """Settings of the supervised phase.

    Attributes:
        batch_size: conversations per step.
        learning_rate: peak, for both Muon (the matrices) and AdamW (embeddings and norms).
        warmup_steps: steps of the linear rise; over the last 30 % of all steps the rate falls linearly to 5 %.
        threads: torch's threads; one, since the matrices are tiny.
    """

    batch_size: int = 16
    learning_rate: float = 0.012
    warmup_steps: int = 40
    threads: int = 1


def collate(demos: list[Demo], pad_id: int) -> Batch:
    """Right-pad conversations to one batch.

    Returns:
        ids and labels, both int64 of shape (rows, tokens); labels are `IGNORED` where the
        demonstrator did not write the token.
    """
    width = max(len(demo.ids) for demo in demos)
    ids = torch.full((len(demos), width), pad_id)
    labels = torch.full((len(demos), width), IGNORED)
    for row, demo in enumerate(demos):
        tokens = torch.tensor(demo.ids)
        ids[row, : len(tokens)] = tokens
        labels[row, : len(tokens)] = torch.where(torch.tensor(demo.sampled), tokens, IGNORED)
    return ids, labels


def demo_batches(demos: list[Demo], size: int, pad_id: int, rng: random.Random) -> Iterator[Batch]:
    """Yield every demonstration once, in batches of similar length and random order."""
    shuffled = rng.sample(demos, len(demos))
    for start in range(0, len(shuffled), 16 * size):
        pool = sorted(shuffled[start : start + 16 * size], key=lambda demo: len(demo.ids))
        chunks = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(chunks)
        yield from (collate(chunk, pad_id) for chunk in chunks)


def imitate(
    model: Qwen3ForCausalLM,
    demos: list[Demo],
    seed: int,
    report: Callable[[str], None],
    settings: TrainSettings | None = None,
) -> float:
    """Train the model in place on all demonstrations, once; returns the loss at the end, see :func:`train`.

    Args:
        model: the fresh model.
        demos: the conversations, any order.
        seed: seed of the order.
        report: gets a progress line every 50 steps.
        settings: batch size and schedule; the defaults if None.
    """
    settings = settings or TrainSettings()
    padding = model.config.pad_token_id
    assert padding is not None  # build_model sets it
    batches = demo_batches(demos, settings.batch_size, padding, random.Random(f"warm-start-{seed}"))
    return train(model, batches, math.ceil(len(demos) / settings.batch_size), report, settings)


def train(
    model: Qwen3ForCausalLM,
    batches: Iterable[Batch],
    steps: int,
    report: Callable[[str], None],
    settings: TrainSettings,
) -> float:
    """Train the model in place on the labelled tokens of `batches`, of which there are `steps`.

    Returns:
        Mean loss of the last report's steps, at most 50, nats per token.
    """
    optimizers, schedules = _optimizers(model, steps, settings)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    started, losses, mean = time.monotonic(), list[float](), math.nan
    model.train()
    for step, (ids, labels) in enumerate(batches, start=1):
        loss = _loss(model, ids, labels)
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        losses.append(loss.item())
        if step % 50 == 0 or step == steps:
            mean, elapsed = sum(losses) / len(losses), time.monotonic() - started
            report(f"step {step}/{steps}  loss {mean:.3f} nats/token  {elapsed:.0f} s")
            losses.clear()
    torch.set_num_threads(threads_before)
    model.eval()
    return mean


def _loss(model: Qwen3ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the labelled tokens, nats; logits are computed only where there is a label."""
    hidden, targets = model.model(input_ids=ids).last_hidden_state[:, :-1], labels[:, 1:]
    labelled = targets != IGNORED
    return cross_entropy(model.lm_head(hidden[labelled]), targets[labelled])


def _optimizers(
    model: Qwen3ForCausalLM, steps: int, settings: TrainSettings
) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
    """Make Muon for the matrices of the layers (several times fewer steps than AdamW here), AdamW for the rest."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=settings.learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]

    def rate(step: int) -> float:
        return min((step + 1) / settings.warmup_steps, 1.0, max(0.05, (steps - step) / (0.3 * steps)))

    return optimizers, [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
