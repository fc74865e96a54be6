"""Start-up checks of numbers in verl's config with which a run would end well and have taught nothing."""

from __future__ import annotations

import dataclasses

from omegaconf import DictConfig

from verl_atpo.startup.objective import ESTIMATOR
from verl_atpo.startup.verl_config import ACTOR, AGENT, MULTI_TURN, get, number, refuse


@dataclasses.dataclass(frozen=True)
class Bound:
    """What a number has to be.

    Attributes:
        key: dotted name.
        why: what happens otherwise, and what to do.
        above: it is larger than this, ``None`` for any finite number.
        integer: it is a whole one.
    """

    key: str
    why: str
    above: float | None = 0
    integer: bool = False


NO_STEP = "the run would end without a step; set at least 1"
BOUNDS = (
    Bound(f"{ACTOR}.optim.lr", "the policy would stay as it is or get worse; set a small positive number, e.g. 1e-6"),
    Bound(f"{ACTOR}.ppo_epochs", "no batch would be trained on; set 1", integer=True),
    Bound(f"{ACTOR}.grad_clip", "gradients would be scaled to nothing; set e.g. 1.0"),
    Bound(f"{ACTOR}.clip_ratio_c", "the bound of the dual clip has to lie above the ratio 1; set e.g. 3.0", above=1),
    Bound(f"{ACTOR}.entropy_coeff", "the loss would not be a number; set e.g. 0", above=None),
    Bound(f"{ACTOR}.kl_loss_coef", "the loss would not be a number; set e.g. 0.001", above=None),
    Bound(f"{ACTOR}.ppo_mini_batch_size", "no mini-batch would hold a row; set at least 1", integer=True),
    Bound("data.train_batch_size", "no step would have a prompt; set at least 1", integer=True),
    Bound("data.max_prompt_length", "every prompt would be too long; set at least 1", integer=True),
    Bound(f"{AGENT}.num_workers", "nobody would run the agent loop; set at least 1", integer=True),
    Bound(f"{MULTI_TURN}.max_parallel_calls", "no tool would ever be called; set at least 1", integer=True),
)
STEPS = (Bound("trainer.total_training_steps", NO_STEP, integer=True), Bound("trainer.total_epochs", NO_STEP))
WARMUP = "trainer.critic_warmup"


def check_learning(config: DictConfig) -> None:
    """Check that steps are made, and that they can move the policy.

    Raises:
        ConfigError: names the setting, its value and the remedy.
    """
    for bound in BOUNDS if get(config, "trainer.val_only") else (*BOUNDS, *STEPS):
        value = number(config, bound.key, integer=bound.integer)
        if value is not None and bound.above is not None and value <= bound.above:
            refuse(bound.key, value, bound.why)
    warmup = number(config, WARMUP, integer=True)
    if warmup and get(config, ESTIMATOR) != "gae":
        refuse(WARMUP, warmup, "the policy would not be trained for as many steps, and there is no critic; set 0")
    scaled = get(config, "algorithm.norm_adv_by_std_in_grpo")
    if scaled is not None and not isinstance(scaled, bool):
        refuse("algorithm.norm_adv_by_std_in_grpo", scaled, "expected True or False")
