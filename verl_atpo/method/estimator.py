"""The advantage estimators ``atpo`` and ``a2tgpo``: a turn's tokens get the advantage of their turn. torch, no verl.

verl's trainer calls it with token-level rewards, mask, uids and settings. Three steps, each at home in one place:
the values of all turns are read out of the rewards (:mod:`verl_atpo.method.channel`), scaled inside their group, and
made into advantages (both :mod:`verl_atpo.method.credit`).

Shapes: rows R (all trajectories of the batch), tokens T (right-padded responses), groups G (one per uid).
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np
import torch

from verl_atpo.algorithm import of_verl, read_algorithm
from verl_atpo.config import ConfigError, CreditConfig
from verl_atpo.method.channel import read_values
from verl_atpo.method.credit import Outcomes, normalization, turn_advantage
from verl_atpo.method.gain_channel import read_credits

logger = logging.getLogger(__name__)


def compute_atpo_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray | None = None,
    config: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn-wise advantages of trees, and of plain chains, whose turns all are worth their row's outcome.

    Normalisation runs over the outcomes of a uid's rows. Groups may have any size. All outcomes equal: zeros (but with
    ``normalize=none``, and a group of one with ``zscore_sample``, which keeps its outcome as verl's GRPO does).

    Args:
        token_level_rewards: (R, T); float32, float64 or integer.
        response_mask: (R, T), 1 on sampled tokens; int or bool. A row may be empty (padding): its advantages are 0.
        index: (R,) uid of each row's prompt.
        config: verl's ``algorithm`` settings (mapping or object); ours are read from its ``atpo``.
        **kwargs: what verl may pass to other estimators.

    Returns:
        Advantages and returns, (R, T), the same tensor, float64 for float64 rewards and else float32; 0 where the
        mask is.

    Raises:
        ConfigError: bad settings, or ``use_kl_in_reward``, which would overwrite the values in the rewards.
        ValueError: no uids; token-level rewards that :func:`~verl_atpo.method.channel.read_values` refuses.
    """
    settings = _credit_settings(config, "atpo")
    with torch.no_grad():
        group_R = _groups(index, token_level_rewards.device)
        values = read_values(token_level_rewards, response_mask, group_R)
        if not values.trees:
            _say_how_to_grow_trees("atpo")
        offset_G, factor_G = normalization(_outcomes(values.outcome_R, group_R), settings.normalize)
        offset_R1, factor_R1 = offset_G[group_R, None], factor_G[group_R, None]
        value_RT, parent_RT, root_R1 = (
            (value - offset_R1) * factor_R1 for value in (values.value_RT, values.parent_RT, values.root_R[:, None])
        )
        advantages_RT = turn_advantage(settings.advantage, value_RT, parent_RT, root_R1)
        advantages_RT = torch.where(response_mask.bool(), advantages_RT, 0.0)
        if token_level_rewards.dtype is not torch.float64:
            advantages_RT = advantages_RT.float()
    return advantages_RT, advantages_RT


def compute_a2tgpo_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray | None = None,
    config: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A²TGPO's advantages: the outcome's, and for all turns but the last what the rollout made of information gains.

    Arguments, returns and errors are those of :func:`compute_atpo_advantage`, but for one token: the first one behind a
    turn, where the mask is 0, holds the share by which the turn's clip range is wider, for the policy loss ``a2tgpo``.
    Other losses do not look at masked tokens.
    """
    settings = _credit_settings(config, "a2tgpo")
    with torch.no_grad():
        group_R = _groups(index, token_level_rewards.device)
        credits = read_credits(token_level_rewards, response_mask, group_R)
        if not credits.trees:
            _say_how_to_grow_trees("a2tgpo")
        offset_G, factor_G = normalization(_outcomes(credits.outcome_R, group_R), settings.normalize)
        scaled_R = (credits.outcome_R - offset_G[group_R]) * factor_G[group_R]
        own_RT = scaled_R[:, None] + credits.advantage_RT
        advantages_RT = torch.where(response_mask.bool(), own_RT, credits.clip_RT)
        if token_level_rewards.dtype is not torch.float64:
            advantages_RT = advantages_RT.float()
    return advantages_RT, advantages_RT


def _groups(index: np.ndarray | None, device: torch.device) -> torch.Tensor:
    """(R,) number of each row's group."""
    if index is None:
        raise ValueError("index=None: expected the uid of every row; the batch needs the field 'uid'.")
    groups = np.unique(np.asarray(index).astype(str), return_inverse=True)[1].reshape(-1)
    return torch.from_numpy(groups).to(device)


def _outcomes(outcome_R: torch.Tensor, group_R: torch.Tensor) -> Outcomes:
    """Those of all groups, from the outcome of every row."""
    size_G = torch.bincount(group_R)
    zero_G = outcome_R.new_zeros(size_G.shape)
    mean_G = zero_G.index_add(0, group_R, outcome_R) / size_G
    deviation_R = outcome_R - mean_G[group_R]
    return Outcomes(
        size=size_G,
        mean=mean_G,
        squares=zero_G.index_add(0, group_R, deviation_R**2),
        widest=zero_G.scatter_reduce(0, group_R, deviation_R.abs(), "amax"),
        largest=zero_G.scatter_reduce(0, group_R, outcome_R.abs(), "amax"),
    )


def _credit_settings(config: Any, name: str) -> CreditConfig:
    if of_verl(config, "use_kl_in_reward"):
        raise ConfigError(
            f"algorithm.use_kl_in_reward=True cannot work with algorithm.adv_estimator={name}: expected False, because "
            "a penalty on every token's reward would overwrite the turns' values. Remedy: "
            "algorithm.use_kl_in_reward=False actor_rollout_ref.actor.use_kl_loss=True."
        )
    return read_algorithm(config).credit


@functools.cache
def _say_how_to_grow_trees(name: str) -> None:
    """One line per process."""
    logger.warning(
        f"algorithm.adv_estimator={name} got plain chains: each turn gets its trajectory's outcome. To grow trees, add "
        f"+atpo={'tree' if name == 'atpo' else name}, or set actor_rollout_ref.rollout.agent.agent_loop_manager_class="
        "verl_atpo.rollout.TreeAgentLoopManager."
    )
