"""The advantage estimator ``atpo``: every turn's tokens get the advantage of their turn. torch, nothing of verl.

verl's trainer hands an estimator token-level rewards, mask, uids and settings, so the values of a tree arrive
inside the rewards (:func:`verl_atpo.method.credit.shape_token_rewards`) and are read back here:

- a row whose token 0 is not 0 comes from a tree: token 0 is the root's value, and the running sum at a turn's first
  token (turn 1: at token 1) is the turn's value;
- any other row is a plain chain with its outcome on some later token: each of its turns has that outcome as value,
  and the root's value is the mean outcome of the group.

Shapes: rows R (all trajectories of the batch), tokens T (right-padded responses), groups G (one per uid).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from verl_atpo.config import ROOT_KEY, AdvantageMode, AtpoConfig, ConfigError, CreditConfig, Normalize
from verl_atpo.method.credit import EPSILON, TINY

logger = logging.getLogger(__name__)

EQUAL = 4 * torch.finfo(torch.float32).eps
"""Outcomes of a group that differ by less than this share of the largest count as equal: float32 rounding."""


def compute_atpo_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray | None = None,
    config: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn-wise advantages from tree-shaped or plain outcome rewards.

    Normalisation runs over the outcomes of a uid's rows; it is affine and so are the backups, hence normalising here
    equals normalising the leaves before the backup. Groups may have any size. All outcomes equal: zeros (but with
    ``normalize=none``, and a group of one with ``zscore_sample``, which keeps its outcome as verl's GRPO does).

    Args:
        token_level_rewards: (R, T) float.
        response_mask: (R, T), 1 on sampled tokens; int or bool. A row may be empty (padding): its advantages are 0.
        index: (R,) uid of each row's prompt.
        config: verl's ``algorithm`` settings (mapping or object); ours are read from its ``atpo``.
        **kwargs: what verl may pass to other estimators.

    Returns:
        Advantages and returns, (R, T), the same tensor; 0 where the mask is.

    Raises:
        ConfigError: bad settings, or ``use_kl_in_reward``, which would overwrite the shape of the rewards.
        ValueError: no uids, or token-level rewards of another kind.
    """
    settings = _credit_settings(config)
    if index is None:
        raise ValueError("index=None: expected the uid of every row; the batch needs the field 'uid'.")
    with torch.no_grad():
        rewards, mask = token_level_rewards.double(), response_mask.bool()
        group = torch.from_numpy(np.unique(np.asarray(index).astype(str), return_inverse=True)[1].reshape(-1))
        advantages = _advantages(rewards, mask, group.to(rewards.device), settings)
        advantages = advantages.to(token_level_rewards.dtype)
    return advantages, advantages


def _advantages(rewards: torch.Tensor, mask: torch.Tensor, group: torch.Tensor, settings: CreditConfig) -> torch.Tensor:
    """(R, T) advantages of rewards (R, T, float64), mask (R, T, bool), group number (R,)."""
    outcome = rewards.sum(dim=1)
    from_tree = rewards[:, 0] != 0 if rewards.shape[1] > 1 else torch.zeros_like(outcome, dtype=torch.bool)
    if not from_tree.any():
        _say_how_to_grow_trees()
    root = _root_values(rewards, mask, outcome, from_tree, group)
    value, parent = _turn_values(rewards, mask, outcome, from_tree, root)
    offset, scale = _group_statistics(outcome, group, settings.normalize)

    if settings.advantage is AdvantageMode.VALUE:
        advantages = value - offset[group, None]
    elif settings.advantage is AdvantageMode.DIFF_PARENT:
        advantages = value - parent
    elif settings.advantage is AdvantageMode.DIFF_GLOBAL:
        advantages = value - root[:, None]
    else:
        advantages = (value - parent) + (value - root[:, None])
    return torch.where(mask, advantages / scale[group, None], 0.0)


def _turn_values(
    rewards: torch.Tensor, mask: torch.Tensor, outcome: torch.Tensor, from_tree: torch.Tensor, root: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Value of each token's turn and of the turn before, both (R, T); tokens outside of turns hold anything.

    All tokens of a turn read the running sum at its first token, so what a cut-off turn left on the row's last token
    does not reach them. Shared turns may be masked: the sum runs over all tokens.
    """
    running = rewards.cumsum(dim=1)
    if running.shape[1] > 1:
        running[:, 0] = running[:, 1]
    running = torch.where(from_tree[:, None], running, outcome[:, None])
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    opens = mask.clone()
    opens[:, 1:] &= ~mask[:, :-1]
    start = torch.where(opens, positions, 0).cummax(dim=1).values
    before = running.gather(1, (start - 1).clamp(min=0))
    return running.gather(1, start), torch.where(start <= 1, root[:, None], before)


def _root_values(
    rewards: torch.Tensor, mask: torch.Tensor, outcome: torch.Tensor, from_tree: torch.Tensor, group: torch.Tensor
) -> torch.Tensor:
    """(R,) value of each row's root.

    A response of one token holds just its outcome, so only rows with something past token 0 tell the root's value.

    Raises:
        ValueError: rows of one group start with different root values, so nothing of ours shaped them.
    """
    told = from_tree & (mask[:, 1:].any(dim=1) | (rewards[:, 1:] != 0).any(dim=1))
    first = torch.where(rewards[:, 0].abs() <= TINY, 0.0, rewards[:, 0])
    groups = int(group.max()) + 1 if group.numel() else 0
    lowest = first.new_full((groups,), torch.inf).scatter_reduce(0, group[told], first[told], "amin")
    highest = first.new_full((groups,), -torch.inf).scatter_reduce(0, group[told], first[told], "amax")
    if (highest > lowest).any():
        odd = int((highest > lowest).nonzero()[0])
        raise ValueError(
            f"token-level rewards of one group start with different values ({lowest[odd]} to {highest[odd]}): expected "
            "the root's value, written by verl_atpo's rollout, or 0 and the outcome on the last token. Remedy: with "
            "rewards of your own on single tokens choose another algorithm.adv_estimator."
        )
    return torch.where(lowest.isfinite(), lowest, _group_mean(outcome, group))[group]


def _group_statistics(
    outcome: torch.Tensor, group: torch.Tensor, normalize: Normalize
) -> tuple[torch.Tensor, torch.Tensor]:
    """Offset and scale of each group, (G,); as :func:`~verl_atpo.method.credit.reward_statistics` for one."""
    mean = _group_mean(outcome, group)
    if normalize is Normalize.NONE:
        return torch.zeros_like(mean), torch.ones_like(mean)
    spread = outcome - mean[group]
    size = torch.bincount(group)
    squares = torch.zeros_like(mean).index_add(0, group, spread**2)
    offset = mean
    if normalize is Normalize.CENTER:
        scale = torch.ones_like(mean)
    elif normalize is Normalize.ZSCORE:
        scale = (squares / size).sqrt() + EPSILON
    else:
        alone = size == 1
        offset = torch.where(alone, 0.0, mean)
        scale = torch.where(alone, 1.0, (squares / (size - 1)).sqrt()) + EPSILON
    largest = torch.zeros_like(mean).scatter_reduce(0, group, outcome.abs(), "amax")
    widest = torch.zeros_like(mean).scatter_reduce(0, group, spread.abs(), "amax")
    equal = (widest <= EQUAL * largest) & ~((size == 1) & (normalize is Normalize.ZSCORE_SAMPLE))
    return offset, torch.where(equal, torch.inf, scale)  # nothing to learn: exactly 0 instead of rounding / epsilon


def _group_mean(values: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    size = torch.bincount(group)
    return values.new_zeros(size.shape[0]).index_add(0, group, values) / size


def _credit_settings(config: Any) -> CreditConfig:
    def read(name: str) -> Any:
        return (
            config.get(name) if isinstance(config, Mapping) or hasattr(config, "get") else getattr(config, name, None)
        )

    if read("use_kl_in_reward"):
        raise ConfigError(
            "algorithm.use_kl_in_reward=True cannot work with algorithm.adv_estimator=atpo: expected False, because a "
            "penalty on every token's reward would overwrite the turns' values. Remedy: "
            "algorithm.use_kl_in_reward=False actor_rollout_ref.actor.use_kl_loss=True."
        )
    atpo = read(ROOT_KEY.rpartition(".")[2])
    if OmegaConf.is_config(atpo):
        atpo = OmegaConf.to_container(atpo, resolve=True)
    return (atpo if isinstance(atpo, AtpoConfig) else AtpoConfig.from_mapping(atpo)).credit


@functools.cache
def _say_how_to_grow_trees() -> None:
    """One line per process."""
    logger.warning(
        "algorithm.adv_estimator=atpo got plain chains: each turn gets its trajectory's outcome. To grow trees, add "
        "+atpo=tree, or set actor_rollout_ref.rollout.agent.agent_loop_manager_class="
        "verl_atpo.rollout.TreeAgentLoopManager."
    )
