"""The advantage estimators: read the credit of turns out of rows, scale it by the group, spread it over the turns.

verl's trainer calls them with token-level rewards, mask, uids and settings. The credit itself was decided by the run's
scheme (:mod:`verl_atpo.method.scheme`) when the tree was finished.

Shapes: rows R (all rows of the batch), tokens T (right-padded responses), groups G (one per uid).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from verl_atpo.algorithm import entry, read_algorithm
from verl_atpo.method.channel import read_rows
from verl_atpo.method.credit import Outcomes, normalization
from verl_atpo.method.scheme import ATPO, Scheme, find_scheme
from verl_atpo.settings import refuse

logger = logging.getLogger(__name__)

Estimator = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def compute_atpo_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray | None = None,
    config: Any = None,
    *,
    estimator: str = ATPO,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn-wise advantages of trees, and of plain chains, whose turns all have their row's outcome as their value.

    Normalisation runs over the outcomes of a uid's trajectories. Groups may have any size. All outcomes equal: zeros
    (but with ``normalize=none``, and a group of one with ``zscore_sample``, which keeps its outcome as verl's GRPO
    does).

    Args:
        token_level_rewards: (R, T); float32, float64 or integer.
        response_mask: (R, T), 1 on sampled tokens; int or bool. A row may be empty (padding): its advantages are 0.
        index: (R,) uid of each row's prompt.
        config: verl's ``algorithm`` settings (mapping or object); ours are read from its ``atpo``.
        estimator: the name that verl has for this estimator.
        **kwargs: further arguments that verl passes to estimators.

    Returns:
        Advantages and returns, (R, T), the same tensor, float64 for float64 rewards and else float32. Where the mask
        is 0 they are 0, except on the first token after a turn of a scheme that carries a second number: there they
        are that number, which a policy loss may read.

    Raises:
        ConfigError: bad settings, or ``use_kl_in_reward``, which would overwrite the credit in the rewards.
        ValueError: no uids; token-level rewards that :func:`~verl_atpo.method.channel.read_rows` refuses.
    """
    scheme = _scheme(config, estimator)
    with torch.no_grad():
        group_R, groups = _groups(index, token_level_rewards.device)
        rows = read_rows(token_level_rewards, response_mask)
        if not rows.written_R.any():
            _warn_of_plain_chains(estimator)
        outcomes = _outcomes(rows.outcome_R, rows.counts_R.double(), group_R, groups)
        zero_G, factor_G = normalization(outcomes, scheme.config.normalize)
        outcome_R1, mean_R1, zero_R1, factor_R1 = (
            each[:, None] for each in (rows.outcome_R, outcomes.mean[group_R], zero_G[group_R], factor_G[group_R])
        )
        chain_RT = scheme.chain(outcome_R1, mean_R1, zero_R1, rows.first_RT.double())
        raw_RT = torch.where(rows.written_R[:, None], rows.advantage_RT, chain_RT)
        own_RT = scheme.scale(raw_RT, (outcome_R1 - zero_R1) * factor_R1, factor_R1)
        advantages_RT = torch.where(response_mask.bool(), own_RT, rows.after_RT if scheme.carries_after else 0.0)
        if token_level_rewards.dtype is not torch.float64:
            advantages_RT = advantages_RT.float()
    return advantages_RT, advantages_RT


@functools.cache
def estimator_named(name: str) -> Estimator:
    """Make the function that verl registers as the estimator ``name``."""
    return compute_atpo_advantage if name == ATPO else functools.partial(compute_atpo_advantage, estimator=name)


def _groups(index: np.ndarray | None, device: torch.device) -> tuple[torch.Tensor, int]:
    """(R,) number of each row's group, and how many groups there are."""
    if index is None:
        raise ValueError("index=None: expected the uid of every row; the batch needs the field 'uid'.")
    uids, groups = np.unique(np.asarray(index).astype(str), return_inverse=True)
    return torch.from_numpy(groups.reshape(-1)).to(device), len(uids)


def _outcomes(outcome_R: torch.Tensor, counts_R: torch.Tensor, group_R: torch.Tensor, groups: int) -> Outcomes:
    """Per-group statistics of outcomes, over the rows whose outcome counts (1; 0 for others)."""
    zero_G = outcome_R.new_zeros(groups)
    size_G = zero_G.index_add(0, group_R, counts_R).clamp(min=1)
    mean_G = zero_G.index_add(0, group_R, outcome_R * counts_R) / size_G
    deviation_R = (outcome_R - mean_G[group_R]) * counts_R
    return Outcomes(
        size=size_G,
        mean=mean_G,
        squares=zero_G.index_add(0, group_R, deviation_R**2),
        widest=zero_G.scatter_reduce(0, group_R, deviation_R.abs(), "amax"),
        largest=zero_G.scatter_reduce(0, group_R, outcome_R.abs() * counts_R, "amax"),
    )


def _scheme(config: Any, name: str) -> Scheme:
    if entry(config, "use_kl_in_reward"):
        raise refuse(
            "algorithm.use_kl_in_reward",
            True,
            f"with algorithm.adv_estimator={name} a penalty on every token's reward would overwrite the credit of "
            "turns. Set algorithm.use_kl_in_reward=False actor_rollout_ref.actor.use_kl_loss=True",
        )
    return find_scheme(read_algorithm(config), name)


@functools.cache
def _warn_of_plain_chains(name: str) -> None:
    """Log the notice about plain chains, once per process."""
    logger.warning(
        f"algorithm.adv_estimator={name} got plain chains: each turn gets its trajectory's outcome. To grow trees, add "
        f"+atpo={'tree' if name == 'atpo' else name}, or set actor_rollout_ref.rollout.agent.agent_loop_manager_class="
        "verl_atpo.rollout.TreeAgentLoopManager."
    )
