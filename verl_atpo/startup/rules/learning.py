"""Rules about numbers with which a run would finish without errors and without learning."""

from __future__ import annotations

from collections.abc import Callable

from verl_atpo.startup.rules.rule import Rule, Run, Stage, always, number_rule, value_rule
from verl_atpo.startup.verl_config import ACTOR, AGENT, ESTIMATOR, MULTI_TURN, ROLLOUT

LARGEST_ENTROPY = 0.1
MOST_EPOCHS = 16
GROUPED = ("grpo", "grpo_vectorized", "grpo_passk", "rloo", "rloo_vectorized", "opo")
"""verl's estimators that compare the trajectories of a prompt."""


def _count(setting: str, why: str, applies: Callable[[Run], bool] = always) -> Rule:
    return number_rule(setting, f"{why}; set at least 1", applies, integer=True, ge=1)


def _mostly_entropy(run: Run) -> str | None:
    """Warn of an entropy bonus that outweighs what is learnt from rewards."""
    coefficient = run.number(f"{ACTOR}.entropy_coeff")
    if coefficient is None or abs(coefficient) <= LARGEST_ENTROPY:
        return None
    return f"advantages are near 1, so that entropy would outweigh the rewards; usual are 0 to {LARGEST_ENTROPY}"


def _stale(run: Run) -> str | None:
    """Warn of a batch that is trained on until the clip range is all that holds the policy."""
    epochs = run.number(f"{ACTOR}.ppo_epochs", integer=True)
    if epochs is None or epochs <= MOST_EPOCHS:
        return None
    return f"each batch would be trained on {epochs} times, as long as the clip range allows; usual are 1 to 4"


def _no_baseline(run: Run) -> str | None:
    """Warn of groups of one trajectory, whose reward is compared with nothing."""
    if run.get(f"{ROLLOUT}.n") != 1 or run.get(ESTIMATOR) not in GROUPED:
        return None
    return (
        f"{ESTIMATOR}={run.get(ESTIMATOR)} compares the trajectories of a prompt, and one has no other: its reward is "
        "its advantage, and reward 0 teaches nothing; set e.g. 8"
    )


def _trains(run: Run) -> bool:
    return not run.get("trainer.val_only")


RULES = (
    number_rule(
        f"{ACTOR}.optim.lr", "the policy would stay as it is or get worse; set a small positive number, e.g. 1e-6", gt=0
    ),
    _count(f"{ACTOR}.ppo_epochs", "no batch would be trained on"),
    number_rule(f"{ACTOR}.grad_clip", "gradients would be scaled to nothing; set e.g. 1.0", gt=0),
    number_rule(f"{ACTOR}.clip_ratio_c", "the bound of the dual clip has to lie above the ratio 1; set e.g. 3.0", gt=1),
    number_rule(f"{ACTOR}.entropy_coeff", "the loss would not be a number; set e.g. 0"),
    number_rule(
        f"{ACTOR}.kl_loss_coef",
        "the policy would be driven away from the reference, without bound; set e.g. 0.001",
        ge=0,
    ),
    Rule(f"{ACTOR}.entropy_coeff", _mostly_entropy, warns=True),
    Rule(f"{ACTOR}.ppo_epochs", _stale, warns=True),
    _count(f"{ACTOR}.ppo_mini_batch_size", "every mini-batch would be empty"),
    _count("data.train_batch_size", "no step would have a prompt"),
    _count("data.max_prompt_length", "every prompt would be too long"),
    _count(f"{AGENT}.num_workers", "no worker would run the agent loop"),
    _count(f"{MULTI_TURN}.max_parallel_calls", "no tool would ever be called"),
    _count("trainer.total_training_steps", "the run would end without a step", _trains),
    number_rule("trainer.total_epochs", "the run would end without a step; set at least 1", _trains, gt=0),
    number_rule(
        "trainer.critic_warmup",
        "the policy would not be trained for as many steps, and there is no critic; set 0",
        lambda run: run.get(ESTIMATOR) != "gae",
        integer=True,
        ge=0,
        le=0,
    ),
    value_rule(
        "algorithm.norm_adv_by_std_in_grpo",
        lambda value: isinstance(value, bool),
        "expected True or False",
    ),
)
LATER = (Rule(f"{ROLLOUT}.n", _no_baseline, lambda run: not run.grows_trees, Stage.REHEARSAL, warns=True),)
"""Rules that follow all others, which are about settings that cannot work."""
