"""What is logged of information gains and of asking for them (``algorithm.adv_estimator=a2tgpo``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verl_atpo.method.information_gain import information_gains
from verl_atpo.rollout.grown import AnswerCosts, GrownTree


def known_gains(grown: GrownTree) -> list[float]:
    """Information gain of each turn of which it is known, nats/token; empty where nobody asked."""
    if grown.answers is None:
        return []
    return [gain for gain in information_gains(grown.tree, grown.answers.log_probs) if gain is not None]


def answer_metrics(costs: Sequence[AnswerCosts | None], gains: Sequence[float]) -> dict[str, float]:
    """Metrics of a step.

    Args:
        costs: of each tree; ``None`` where nobody asked.
        gains: of all their turns.

    Returns:
        Nothing where no tree asked.
    """
    known = [cost for cost in costs if cost is not None]
    if not known:
        return {}
    tokens = sum(cost.tokens for cost in known)
    metrics = {
        "answer_requests": float(sum(cost.requests for cost in known)),
        "answer_tokens": float(tokens),
        "answer_cache_hit_share": sum(cost.cached for cost in known) / max(1, tokens),
        "answers_unknown": float(sum(cost.unknown for cost in known)),
    }
    if gains:
        metrics["information_gain/mean"] = float(np.mean(gains))
        metrics["information_gain/std"] = float(np.std(gains))
    return metrics
