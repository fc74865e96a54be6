"""The arms of the laboratory: what each sets on top of `+atpo=tree` with trees of :data:`BASE`, in verl's own words.

Arms have 16 trajectories a prompt, the same learning rate and the same aggregation, unless that is the arm. The
clip ranges of the sequence's and the turn's ratio are wider than their authors', whose models are a thousand times
larger. Arms of the learning comparison in verl run here too, as `verl_NAME` and exactly as they are there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from benchmarks.learning import arms as in_verl
from benchmarks.learning.task import LEARNING_RATE, MINI_BATCH, PROMPTS
from verl_atpo.config import AtpoConfig
from verl_atpo.startup.presets import ATPO_PRESETS


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        title: what tables call it.
        overrides: what it sets, as verl's command line would.
    """

    title: str
    overrides: tuple[str, ...]


def _loss(mode: str, low: float, high: float) -> tuple[str, ...]:
    return in_verl._loss(mode, "seq-mean-token-mean", low, high)


BASE = (*in_verl.FOUR_CHAINS, *in_verl.SEPARATE)
"""The trees on top of which arms are defined: 4 + 12 trajectories, and the paper's credit."""
CHAINS, OUTCOME, RANDOM = in_verl.CHAINS, in_verl.OUTCOME, in_verl.RANDOM_TREES
TOKEN, TOKEN_HIGHER = _loss("vanilla", 0.2, 0.2), _loss("vanilla", 0.2, 0.28)
SEQUENCE, TURN = _loss("gspo", 0.03, 0.04), _loss("atpo", 0.03, 0.04)
EIGHT = in_verl.EIGHT_CHAINS
ROUNDS = ("algorithm.atpo.expansion.schedule=rounds",)

BASELINES = {
    "grpo": Arm("GRPO", CHAINS + OUTCOME + TOKEN),
    "gspo": Arm("GSPO", CHAINS + OUTCOME + SEQUENCE),
    "dapo": Arm("DAPO-style", CHAINS + OUTCOME + TOKEN_HIGHER + ("algorithm.filter_groups.enable=True",)),
    "tree_grpo": Arm("Tree-GRPO-style", EIGHT + RANDOM + OUTCOME + TOKEN),
    "entropy_branching": Arm("entropy branching", EIGHT + OUTCOME + TOKEN),
}
TREES = {
    "paper": Arm("AT²PO, paper", (*EIGHT, *TURN, "algorithm.atpo.expansion.penalty_counts=siblings")),
    "tree_4": Arm("AT²PO, 4 + 12 trajectories", TURN),
}
STOPS = ("algorithm.atpo.expansion.budget=adaptive",)
SHAPES = {
    "rounds_4": Arm("tree of 4 chains in rounds", TURN + ROUNDS),
    "rounds_8": Arm("tree of 8 chains in rounds", EIGHT + TURN),
    "continuous_8": Arm(
        "tree of 8 chains, continuous", (*EIGHT, *TURN, "algorithm.atpo.expansion.schedule=continuous")
    ),
    "adaptive": Arm("tree, adaptive budget", TURN + STOPS),
    "adaptive_rounds_4": Arm("tree of 4 chains in rounds, adaptive budget", TURN + ROUNDS + STOPS),
    "adaptive_rounds_8": Arm("tree of 8 chains in rounds, adaptive budget", EIGHT + TURN + STOPS),
}


def _leaves(chains: int, branches: int, rounds: int) -> tuple[str, ...]:
    shape = {"initial_chains": chains, "branches_per_round": branches, "rounds": rounds}
    return tuple(f"algorithm.atpo.expansion.{name}={value}" for name, value in shape.items())


SIX = in_verl.SIX_CHAINS
BUDGETS = {
    "grpo_8": Arm("GRPO, 8 trajectories", CHAINS + OUTCOME + TOKEN + _leaves(8, 4, 0)),
    "grpo_12": Arm("GRPO, 12 trajectories", CHAINS + OUTCOME + TOKEN + _leaves(12, 4, 0)),
    "tree_8": Arm("tree of 2 + 6 trajectories", TURN + _leaves(2, 2, 3)),
    "tree_2": Arm("tree of 2 + 14 trajectories", TURN + _leaves(2, 7, 2)),
    "tree_6": Arm("tree of 6 + 6 trajectories", TURN + SIX),
    "tree_12": Arm("tree of 12 + 4 trajectories", TURN + _leaves(12, 4, 1)),
    "grpo_32": Arm("GRPO, 32 trajectories", CHAINS + OUTCOME + TOKEN + _leaves(32, 4, 0)),
    "tree_32": Arm("tree of 8 + 24 trajectories", TURN + _leaves(8, 8, 3)),
}
"""More and fewer trajectories a prompt, and fewer chains among as many."""
SPLIT = (
    "algorithm.atpo.credit.backup=child_mean",
    "algorithm.atpo.credit.advantage=diff_global",
    "algorithm.atpo.credit.weights=split",
)
SELECTED_BY_OTHERS = ("algorithm.atpo.expansion.strategy=other_chains",)
UNBIASED = {
    "unbiased": Arm("unbiased tree", EIGHT + TURN + SPLIT + SELECTED_BY_OTHERS),
    "unbiased_token": Arm("unbiased tree, token-level loss", EIGHT + TOKEN + SPLIT + SELECTED_BY_OTHERS),
    "split_only": Arm("tree of 8 chains in rounds, split weights", EIGHT + TURN + SPLIT),
    "selected_by_others": Arm(
        "tree of 8 chains in rounds, contexts selected by other chains", EIGHT + TURN + SELECTED_BY_OTHERS
    ),
}
BOTH = ("algorithm.atpo.credit.advantage=diff_localglobal",)
"""Relative to the prompt's outcomes, plus relative to the turns of its context: GiGPO's sum, both weighing the same."""
GROUPS = ("algorithm.atpo.credit.backup=child_mean", "algorithm.atpo.credit.normalize=zscore_sample")
"""Means, and the scale of verl's GRPO."""
MERGED = in_verl.MERGED
STATES = {
    "gigpo": Arm("GiGPO-style", CHAINS + TOKEN + BOTH + GROUPS + ("algorithm.atpo.credit.contexts=states",)),
    "tree_4_states": Arm("tree, baselines of merged contexts", TURN + MERGED),
    "rounds_8_states": Arm("tree of 8 chains in rounds, baselines of merged contexts", EIGHT + TURN + MERGED),
    "adaptive_rounds_8_states": Arm(
        "tree of 8 chains in rounds, adaptive budget, baselines of merged contexts", EIGHT + TURN + STOPS + MERGED
    ),
    "tree_6_states": Arm("tree 6 + 6 by entropy", TURN + SIX + MERGED),
    "tree_6_means": Arm(
        "tree 6 + 6 by entropy, mean backup", (*TURN, *SIX, *MERGED, "algorithm.atpo.credit.backup=child_mean")
    ),
    "tree_6_token": Arm("tree 6 + 6 by entropy, token-level loss", TOKEN + SIX + MERGED),
    "tree_6_random": Arm("tree 6 + 6 by entropy, random expansion", TURN + SIX + MERGED + RANDOM),
    "chains_12_states": Arm(
        "12 chains, turn-level loss, baselines of merged contexts", CHAINS + TURN + _leaves(12, 4, 0) + MERGED
    ),
    "tree_4_localglobal": Arm("tree, baselines of parents", TURN + BOTH),
}
PARTS = {
    "turn_chains": Arm("chains, turn-level loss", CHAINS + OUTCOME + TURN),
    "tree_4_random": Arm("tree, random expansion", RANDOM + TURN),
    "tree_4_outcome": Arm("tree, trajectory credit", OUTCOME + TURN),
    "tree_4_token": Arm("tree, token-level loss", TOKEN),
    "tree_4_once": Arm("tree, shared turns trained once", (*TURN, "algorithm.atpo.credit.shared_turns=once")),
    "tree_4_late": Arm("tree, expansions after all chains", (*TURN, "algorithm.atpo.expansion.start_after=1.0")),
    "tree_4_split": Arm("tree, split weights", TURN + SPLIT),
}
RATE = "actor_rollout_ref.actor.optim.lr"
TUNED = {"grpo": BASELINES["grpo"], "gspo": BASELINES["gspo"], "tree_6_states": STATES["tree_6_states"]}
"""Methods whose learning rate and clip range were tried, each with as many runs."""
RATES = (2.5e-4, 1e-3, 2e-3)
CLIPS = {
    "grpo": (("vanilla", 0.1, 0.1), ("vanilla", 0.3, 0.3)),
    "gspo": (("gspo", 0.01, 0.013), ("gspo", 0.1, 0.13)),
    "tree_6_states": (("atpo", 0.01, 0.013), ("atpo", 0.1, 0.13)),
}
TUNING = {
    f"{name}_lr{rate:g}": Arm(f"{arm.title}, learning rate {rate:g}", (*arm.overrides, f"{RATE}={rate}"))
    for name, arm in TUNED.items()
    for rate in RATES
} | {
    f"{name}_clip{high:g}": Arm(f"{arm.title}, clip {low:g}/{high:g}", (*arm.overrides, *_loss(mode, low, high)))
    for name, arm in TUNED.items()
    for mode, low, high in CLIPS[name]
}
"""Learning rates and clip ranges other than the ones of all; tried in worlds that nothing else is measured in."""
ASKS = ("algorithm.adv_estimator=a2tgpo", "algorithm.atpo.information_gain.prompt=<answer>{answer}</answer>")
CREDITED = (*_loss("a2tgpo", 0.03, 0.04), *ASKS, "algorithm.atpo.credit.backup=leaf_mean")
TOKEN_MEAN = ("actor_rollout_ref.actor.loss_agg_mode=token-mean",)
"""verl's default aggregation."""
SHRUNK = ("algorithm.atpo.credit.scheme=shrunk", "algorithm.atpo.credit.contexts=merged")
BY_NOISE = ("algorithm.atpo.expansion.strategy=noise",)
MUTED = ("algorithm.atpo.credit.mute_above=0.5",)
TWELVE = _leaves(12, 4, 0)
AT_TOKEN_MEAN = {
    "grpo_tm": Arm("GRPO, token-mean", CHAINS + OUTCOME + TOKEN + TOKEN_MEAN),
    "grpo_12_tm": Arm("GRPO, 12 trajectories, token-mean", CHAINS + OUTCOME + TOKEN + TWELVE + TOKEN_MEAN),
    "grpo_12_muted_tm": Arm(
        "GRPO, 12 trajectories, muted, token-mean", CHAINS + TOKEN + TWELVE + SHRUNK[:1] + MUTED + TOKEN_MEAN
    ),
    "tree_6_states_tm": Arm("tree 6 + 6 by entropy, token-mean", TURN + SIX + MERGED + TOKEN_MEAN),
    "tree_tm": Arm("tree 6 + 6 by noise, token-mean", TURN + SIX + SHRUNK + BY_NOISE + TOKEN_MEAN),
    "tree_muted_tm": Arm("tree 6 + 6 by noise, muted, token-mean", TURN + SIX + SHRUNK + BY_NOISE + MUTED + TOKEN_MEAN),
    "tree_entropy_tm": Arm("tree 6 + 6 by entropy, shrunk, token-mean", TURN + SIX + SHRUNK + TOKEN_MEAN),
    "chains_12_shrunk_tm": Arm(
        "12 chains, turn-level loss, shrunk, token-mean", CHAINS + TURN + TWELVE + SHRUNK + TOKEN_MEAN
    ),
}
"""Arms at verl's default aggregation, against GRPO with the same."""
PRESET = TURN + SIX + SHRUNK + BY_NOISE
AT_ROW_MEAN = {
    "tree": Arm("tree 6 + 6 by noise", PRESET),
    "tree_entropy": Arm("tree 6 + 6 by entropy, shrunk", TURN + SIX + SHRUNK),
    "tree_muted": Arm("tree 6 + 6 by noise, muted", PRESET + MUTED),
    "grpo_muted": Arm("GRPO, muted", CHAINS + TOKEN + SHRUNK[:1] + MUTED),
    "tree_6_one_baseline": Arm(
        "tree 6 + 6 by entropy, one baseline", (*TURN, *SIX, *MERGED, "algorithm.atpo.credit.advantage=diff_context")
    ),
}
"""The same at the aggregation of the other arms."""
UNDER_TEST = {
    "tree_6_states_noise": Arm("tree 6 + 6 by noise, earlier credit", TURN + SIX + MERGED + BY_NOISE),
    "tree_weighted": Arm(
        "tree 6 + 6 by noise, baselines by squared score", (*PRESET, "algorithm.atpo.credit.baseline_weights=true")
    ),
}
"""Candidates for the preset."""
SPARES = ("algorithm.atpo.expansion.spares=12",)
FILTER = ("algorithm.filter_groups.enable=True",)
PROMPTWISE = {
    "tree_adaptive_12": Arm("tree 6 + 6 by noise, adaptive budget, 12 spares", PRESET + STOPS + SPARES),
    "tree_refilled": Arm("tree 6 + 6 by noise, groups of equal outcomes replaced", PRESET + FILTER),
}
"""The preset with expansions, or prompts, where outcomes differ."""
TWICE_THE_RATE = {
    f"{name}_lr0.001": Arm(f"{arm.title}, learning rate 0.001", (*arm.overrides, f"{RATE}=0.001"))
    for name, arm in (("grpo_8", BUDGETS["grpo_8"]), ("grpo_12", BUDGETS["grpo_12"]), ("tree", AT_ROW_MEAN["tree"]))
}
"""At the learning rate that was best for GRPO and for trees in the worlds of :data:`TUNING`."""
A2TGPO = {
    "a2tgpo": Arm("A²TGPO on trees", CREDITED),
    "a2tgpo_chains": Arm("A²TGPO", (*CHAINS, *CREDITED)),
}
IN_VERL = {f"verl_{name}": Arm(f"{arm.title}, as in verl", EIGHT + arm.overrides) for name, arm in in_verl.ARMS.items()}

ARMS = {
    **BASELINES,
    **TREES,
    **SHAPES,
    **BUDGETS,
    **UNBIASED,
    **STATES,
    **PARTS,
    **TUNING,
    **AT_TOKEN_MEAN,
    **AT_ROW_MEAN,
    **UNDER_TEST,
    **PROMPTWISE,
    **TWICE_THE_RATE,
    **A2TGPO,
    **IN_VERL,
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of an arm.

    Attributes:
        atpo: expansion and credit.
        estimator: ``atpo``, ``a2tgpo`` or verl's ``grpo``.
        loss: name of the policy loss.
        aggregation: how the loss adds up tokens and rows.
        clip: low and high.
        filter_groups: prompts whose outcomes are all equal are replaced by others.
        learning_rate: of AdamW.
        scaled: verl's ``grpo`` divides by the standard deviation of a prompt's outcomes.
        prompts: a step.
        mini_batch: prompts an update.
    """

    atpo: AtpoConfig
    estimator: str
    loss: str
    aggregation: str
    clip: tuple[float, float]
    filter_groups: bool
    learning_rate: float
    scaled: bool = True
    prompts: int = PROMPTS
    mini_batch: int = MINI_BATCH


def settings(overrides: Sequence[str]) -> Settings:
    """Read an arm's overrides on top of `+atpo=tree` and :data:`BASE`."""
    preset = {name: value for name, value in ATPO_PRESETS["tree"].items() if name != "hydra"}
    config: Any = OmegaConf.merge(OmegaConf.create(preset), OmegaConf.from_dotlist([*BASE, *overrides]))
    algorithm, actor = config.algorithm, config.actor_rollout_ref.actor
    atpo: Any = OmegaConf.to_container(algorithm.atpo)
    return Settings(
        atpo=AtpoConfig.from_mapping(atpo),
        estimator=algorithm.adv_estimator,
        loss=actor.policy_loss.loss_mode,
        aggregation=actor.loss_agg_mode,
        clip=(actor.clip_ratio_low, actor.clip_ratio_high),
        filter_groups=bool(OmegaConf.select(config, "algorithm.filter_groups.enable", default=False)),
        learning_rate=float(OmegaConf.select(config, RATE, default=LEARNING_RATE)),
    )
