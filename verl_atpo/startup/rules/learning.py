"""Rules about numbers with which a run would finish without errors and without learning."""

from __future__ import annotations

from collections.abc import Callable

from verl_atpo.startup.rules.rule import Rule, Run, always, number_rule, value_rule
from verl_atpo.startup.verl_config import ACTOR, AGENT, ESTIMATOR, MULTI_TURN


def _above(setting: str, why: str, bound: float = 0, applies: Callable[[Run], bool] = always) -> Rule:
    return number_rule(setting, lambda value: value > bound, why, applies)


def _count(setting: str, why: str, applies: Callable[[Run], bool] = always) -> Rule:
    return number_rule(setting, lambda value: value >= 1, f"{why}; set at least 1", applies, integer=True)


def _finite(setting: str, example: str) -> Rule:
    return number_rule(setting, lambda value: True, f"the loss would not be a number; set e.g. {example}")


def _trains(run: Run) -> bool:
    return not run.get("trainer.val_only")


RULES = (
    _above(f"{ACTOR}.optim.lr", "the policy would stay as it is or get worse; set a small positive number, e.g. 1e-6"),
    _count(f"{ACTOR}.ppo_epochs", "no batch would be trained on"),
    _above(f"{ACTOR}.grad_clip", "gradients would be scaled to nothing; set e.g. 1.0"),
    _above(f"{ACTOR}.clip_ratio_c", "the bound of the dual clip has to lie above the ratio 1; set e.g. 3.0", 1),
    _finite(f"{ACTOR}.entropy_coeff", "0"),
    _finite(f"{ACTOR}.kl_loss_coef", "0.001"),
    _count(f"{ACTOR}.ppo_mini_batch_size", "every mini-batch would be empty"),
    _count("data.train_batch_size", "no step would have a prompt"),
    _count("data.max_prompt_length", "every prompt would be too long"),
    _count(f"{AGENT}.num_workers", "no worker would run the agent loop"),
    _count(f"{MULTI_TURN}.max_parallel_calls", "no tool would ever be called"),
    _count("trainer.total_training_steps", "the run would end without a step", _trains),
    _above("trainer.total_epochs", "the run would end without a step; set at least 1", applies=_trains),
    number_rule(
        "trainer.critic_warmup",
        lambda value: value == 0,
        "the policy would not be trained for as many steps, and there is no critic; set 0",
        lambda run: run.get(ESTIMATOR) != "gae",
        integer=True,
    ),
    value_rule(
        "algorithm.norm_adv_by_std_in_grpo",
        lambda value: isinstance(value, bool),
        "expected True or False",
    ),
)
