"""Rules about the training objective: estimator, policy loss, clip range, rollout correction, distillation."""

from __future__ import annotations

import enum

from verl_atpo.config import ROOT_KEY, CreditConfig
from verl_atpo.method.scheme import own_estimators
from verl_atpo.settings import refuse
from verl_atpo.startup.rules.rule import Rule, Run, choice_rule, in_trees, never
from verl_atpo.startup.verl_config import ACTOR, ESTIMATOR, EXTERNAL, LOSS, ROLLOUT, unknown

CORRECTION = "algorithm.rollout_correction"
DISTILLATION = "distillation.distillation_loss.use_task_rewards"

SUMMING = (
    "grpo",
    "grpo_vectorized",
    "grpo_passk",
    "rloo",
    "rloo_vectorized",
    "opo",
    "gpg",
    "reinforce_plus_plus_baseline",
)
"""verl's estimators that only sum a row's rewards; for the rows of a tree they see the outcomes of its leaves."""

AGGREGATIONS = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")
FULL_PRECISION = ("float32", "fp32", "32", "float")
UNREAD = ("backup", "advantage", "normalize", "weights", "contexts", "scheme")
"""Settings of credit that do not change the sum of a row."""

MISMATCH = (
    "in bfloat16 that alone moved it by 0.006 on average and past 1 +- 0.003 in 61% of the turns, in float32 by 6e-7 "
    "(python -m benchmarks.mismatch, 135 million parameters)"
)


def _estimator(run: Run) -> str | None:
    value = run.get(ESTIMATOR)
    own = own_estimators()
    if value in own or value in SUMMING:
        return None
    reason = f"; {' and '.join(own)} read the credit of turns out of a tree's rewards, the others only sum a row"
    return unknown(value, (*own, *SUMMING), reason)


def _loss(run: Run) -> str | None:
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY

    loss = run.get(LOSS)
    if loss is None or loss in POLICY_LOSS_REGISTRY or run.get(EXTERNAL):
        return None
    return unknown(loss, POLICY_LOSS_REGISTRY)


def _our_loss(run: Run) -> bool:
    return run.has_own_loss


def _clip_setting(run: Run, side: str) -> str:
    """Return the setting that bounds the ratio on one side: that side's, or verl's common one."""
    own = f"{ACTOR}.clip_ratio_{side}"
    return own if run.number(own) is not None else f"{ACTOR}.clip_ratio"


def _clip_rule(setting: str) -> Rule:
    def problem(run: Run) -> str | None:
        bound = run.number(setting)
        sides = [side for side in ("low", "high") if _clip_setting(run, side) == setting]
        if bound is None or not sides or (bound >= 0 and (bound < 1 or sides == ["high"])):
            return None
        return "the ratio is clipped to 1 - low .. 1 + high; set a small positive number, e.g. 0.003"

    return Rule(setting, problem, _our_loss)


def _empty_range(run: Run) -> str | None:
    low, high = (_clip_setting(run, side) for side in ("low", "high"))
    if [run.number(low), run.number(high)] == [0, 0]:
        raise refuse(low, 0, "the clip range is empty, so the policy would not change; set e.g. 0.003")
    return None


def _rejection(run: Run) -> str | None:
    rejection = run.get(f"{CORRECTION}.rollout_rs")
    if isinstance(rejection, str) and any(each.strip().startswith("token") for each in rejection.split(",")):
        return "rejecting single tokens splits turns; reject complete rows, e.g. seq_mean_k1"
    return None


def _low_precision(run: Run) -> dict[str, object]:
    """Return the number types of engine and trainer that are not float32, with their settings."""
    keys = (f"{ROLLOUT}.dtype", f"{ACTOR}.fsdp_config.mixed_precision.param_dtype")
    kinds = {key: run.get(key) for key in keys}
    return {key: kind for key, kind in kinds.items() if kind is not None and str(kind) not in FULL_PRECISION}


def _bypass(run: Run) -> str | None:
    low = _low_precision(run)
    if not run.get(f"{CORRECTION}.bypass_mode") or not low:
        return None
    settings = " and ".join(f"{key}={kind}" for key, kind in low.items())
    return (
        f"with {settings} the ratio of a turn compares the trainer with the engine, and {MISMATCH}. Set "
        "bypass_mode=False, or compute in float32 on both sides"
    )


def _unread_credit(run: Run) -> str | None:
    """Warn of credit settings that verl's estimator, which only sums rows, does not read."""
    estimator, unset, credit = run.get(ESTIMATOR), CreditConfig(), run.atpo.credit
    unread = [
        f"{name}={_shown(getattr(credit, name))}" for name in UNREAD if getattr(credit, name) != getattr(unset, name)
    ]
    if not unread:
        return None
    return (
        f"it sums up each row, so {ROOT_KEY}.credit with {', '.join(unread)} changes nothing. Set {ESTIMATOR}=atpo if "
        f"turns are to be credited, not {estimator}"
    )


def _estimator_of_verl_by_hand(run: Run) -> bool:
    """Return whether verl's estimator sums trees, and no preset was overridden (another warning covers that)."""
    by_hand = run.get("hydra.runtime.choices.atpo") is None
    return run.grows_trees and by_hand and not run.has_own_estimator


RULES = (
    Rule(ESTIMATOR, _estimator, in_trees),
    never(
        "algorithm.use_kl_in_reward",
        True,
        f"the per-token KL penalty would be read as turn values; set it to False and {ACTOR}.use_kl_loss=True",
        lambda run: run.has_own_estimator,
    ),
    Rule(LOSS, _loss),
    choice_rule(f"{ACTOR}.loss_agg_mode", lambda: AGGREGATIONS),
    _clip_rule(f"{ACTOR}.clip_ratio_low"),
    _clip_rule(f"{ACTOR}.clip_ratio_high"),
    _clip_rule(f"{ACTOR}.clip_ratio"),
    Rule(f"{ACTOR}.clip_ratio_low", _empty_range, _our_loss),
    Rule(f"{CORRECTION}.rollout_rs", _rejection, lambda run: run.trains_ours),
    never(
        DISTILLATION,
        False,
        "verl then trains on the teacher's loss alone, so that neither turns' values nor the policy loss count; "
        "set it to True, or distillation.enabled=False",
        lambda run: bool(run.get("distillation.enabled")) and (run.trains_ours or run.grows_trees),
    ),
    Rule(f"{CORRECTION}.bypass_mode", _bypass, _our_loss, warns=True),
    Rule(ESTIMATOR, _unread_credit, _estimator_of_verl_by_hand, warns=True),
)


def _shown(value: object) -> object:
    return value.value if isinstance(value, enum.Enum) else value
