"""What is logged of information gains and of asking for them (``algorithm.adv_estimator=a2tgpo``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verl_atpo.method.scheme import Credit
from verl_atpo.rollout.grown import AnswerCosts


def known_gains(credit: Credit) -> list[float]:
    """Information gain of each turn of which it is known, nats/token; empty where nobody asked."""
    return [gain for gain in credit.notes.get("information_gain", ()) if gain is not None]


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
