"""Start-up checks of what verl learns from: estimator, policy loss, clip range, rollout correction, distillation."""

from __future__ import annotations

from omegaconf import DictConfig

from verl_atpo.config import ROOT_KEY, CreditConfig
from verl_atpo.startup.verl_config import ACTOR, ROLLOUT, get, grows_trees, number, refuse, refuse_unknown

ESTIMATOR = "algorithm.adv_estimator"
LOSS = f"{ACTOR}.policy_loss.loss_mode"
CORRECTION = "algorithm.rollout_correction"
DISTILLATION = "distillation.distillation_loss.use_task_rewards"

OURS = ("atpo", "a2tgpo")
"""Names of this package's estimators, and of its policy losses."""

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
"""verl's estimators that only sum a row's rewards; with a tree's rows they see the outcomes of its leaves."""

AGGREGATIONS = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")


FULL_PRECISION = ("float32", "fp32", "32", "float")


def warn_of_bypass(config: DictConfig) -> str | None:
    """What to say where the ratio compares the trainer with the engine, and both do not compute in float32."""
    if get(config, LOSS) not in OURS or not get(config, f"{CORRECTION}.bypass_mode"):
        return None
    types = {key: get(config, key) for key in (f"{ROLLOUT}.dtype", f"{ACTOR}.fsdp_config.mixed_precision.param_dtype")}
    low = {key: kind for key, kind in types.items() if kind is not None and str(kind) not in FULL_PRECISION}
    if not low:
        return None
    settings = " and ".join(f"{key}={kind}" for key, kind in low.items())
    return (
        f"{CORRECTION}.bypass_mode=True with {settings}: the ratio of a turn compares the trainer with the engine, and "
        f"{MISMATCH}. Set bypass_mode=False, or compute in float32 on both sides."
    )


UNREAD = ("backup", "advantage", "normalize", "weights", "contexts")
"""Settings of credit that leave the sum of a row as it is."""


def warn_of_unread_credit(config: DictConfig, credit: CreditConfig) -> str | None:
    """What to say where turns are credited by hand, and an estimator of verl's only sums up their rows."""
    estimator, unset = get(config, ESTIMATOR), CreditConfig()
    preset = get(config, "hydra.runtime.choices.atpo")  # what took the place of a preset's estimator is told anyway
    if estimator in OURS or preset is not None or not grows_trees(config):
        return None
    unread = [
        f"{name}={getattr(credit, name).value}" for name in UNREAD if getattr(credit, name) != getattr(unset, name)
    ]
    if not unread:
        return None
    return (
        f"{ESTIMATOR}={estimator} sums up each row, so {ROOT_KEY}.credit with {', '.join(unread)} changes nothing. Set "
        f"{ESTIMATOR}=atpo if turns are to be credited."
    )


MISMATCH = (
    "in bfloat16 that alone moved it by 0.006 in the mean and past 1 +- 0.003 in 61% of the turns, in float32 by 6e-7 "
    "(python -m benchmarks.mismatch, 135 million parameters)"
)


def check_objective(config: DictConfig) -> None:
    """Check estimator and loss.

    Raises:
        ConfigError: names the setting, its value and the remedy.
    """
    estimator = get(config, ESTIMATOR)
    if grows_trees(config):
        _check_estimator(estimator)
    if estimator in OURS and get(config, "algorithm.use_kl_in_reward"):
        refuse(
            "algorithm.use_kl_in_reward",
            True,
            f"the per-token KL penalty would be read as turn values; set it to False and {ACTOR}.use_kl_loss=True",
        )
    _check_loss(config)
    _check_correction(config)
    _check_distillation(config)


def _check_estimator(estimator: object) -> None:
    if estimator in OURS or estimator in SUMMING:
        return
    reason = "; atpo and a2tgpo read what turns are worth out of a tree's rewards, the others only sum a row"
    refuse_unknown(ESTIMATOR, estimator, (*OURS, *SUMMING), reason)


def _check_loss(config: DictConfig) -> None:
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY

    loss, elsewhere = get(config, LOSS), get(config, "actor_rollout_ref.model.external_lib")
    if loss is not None and loss not in POLICY_LOSS_REGISTRY and not elsewhere:
        refuse_unknown(LOSS, loss, POLICY_LOSS_REGISTRY)
    aggregation = get(config, f"{ACTOR}.loss_agg_mode")
    if aggregation is not None and aggregation not in AGGREGATIONS:
        refuse_unknown(f"{ACTOR}.loss_agg_mode", aggregation, AGGREGATIONS)
    if loss not in OURS:
        return
    bounds = {}
    for name in ("clip_ratio_low", "clip_ratio_high"):
        key = f"{ACTOR}.{name}"
        if number(config, key) is None:
            key = f"{ACTOR}.clip_ratio"
        bounds[key] = number(config, key)
    for key, bound in bounds.items():
        if bound is not None and (bound < 0 or (bound >= 1 and not key.endswith("high"))):
            refuse(key, bound, "the ratio is clipped to 1 - low .. 1 + high; set a small positive number, e.g. 0.003")
    if bounds and all(bound == 0 for bound in bounds.values()):
        refuse(next(iter(bounds)), 0, "the clip range is empty, so that nothing is learnt; set e.g. 0.003")


def _check_correction(config: DictConfig) -> None:
    ours = get(config, ESTIMATOR) in OURS or get(config, LOSS) in OURS
    rejection = get(config, f"{CORRECTION}.rollout_rs")
    if ours and isinstance(rejection, str) and any(each.strip().startswith("token") for each in rejection.split(",")):
        refuse(
            f"{CORRECTION}.rollout_rs",
            rejection,
            "rejecting single tokens cuts turns in two; reject whole rows, e.g. seq_mean_k1",
        )


def _check_distillation(config: DictConfig) -> None:
    ours = get(config, ESTIMATOR) in OURS or get(config, LOSS) in OURS or grows_trees(config)
    if ours and get(config, "distillation.enabled") and get(config, DISTILLATION) is False:
        refuse(
            DISTILLATION,
            False,
            "verl then trains on the teacher's loss alone, so that neither turns' values nor the policy loss count; "
            "set it to True, or distillation.enabled=False",
        )
