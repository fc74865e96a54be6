"""The arms of the comparison. All run `+atpo=tree`'s code path on 16 trajectories a prompt.

Clip ranges are those that the methods' authors published.
"""

from __future__ import annotations

import dataclasses

_ACTOR = "actor_rollout_ref.actor"


def _loss(mode: str, aggregate: str, low: float, high: float) -> tuple[str, ...]:
    return (
        f"{_ACTOR}.policy_loss.loss_mode={mode}",
        f"{_ACTOR}.loss_agg_mode={aggregate}",
        f"{_ACTOR}.clip_ratio_low={low}",
        f"{_ACTOR}.clip_ratio_high={high}",
    )


ENTROPY = ("algorithm.atpo.expansion.strategy=entropy",)
EIGHT_CHAINS = (
    *ENTROPY,
    "algorithm.atpo.expansion.initial_chains=8",
    "algorithm.atpo.expansion.branches_per_round=4",
    "algorithm.atpo.expansion.rounds=2",
    "algorithm.atpo.expansion.schedule=rounds",
)
"""The trees of all arms, unless an arm says otherwise."""
SEPARATE = (
    "algorithm.atpo.credit.contexts=separate",
    "algorithm.atpo.credit.advantage=value",
    "algorithm.atpo.credit.scheme=null",
)
"""The paper's credit."""
CHAINS = ("algorithm.atpo.expansion.initial_chains=16", "algorithm.atpo.expansion.rounds=0")
RANDOM_TREES = ("algorithm.atpo.expansion.strategy=random",)
OUTCOME = ("algorithm.adv_estimator=grpo",)
"""verl's GRPO estimator: every token of a row gets the row's outcome, relative to the prompt's rows."""

TOKEN_RATIO = _loss("vanilla", "token-mean", 0.2, 0.2)
TOKEN_RATIO_HIGHER = _loss("vanilla", "token-mean", 0.2, 0.28)
SEQUENCE_RATIO = _loss("gspo", "seq-mean-token-mean", 0.0003, 0.0004)
TURN_RATIO = _loss("atpo", "seq-mean-token-mean", 0.003, 0.004)

FILTER_GROUPS = (
    "algorithm.filter_groups.enable=True",
    "algorithm.filter_groups.metric=reward",
    # The quick buffer does not filter: verl's own.
    "trainer.v1.sampler.custom_sampler.path=null",
    "trainer.v1.sampler.custom_sampler.name=null",
)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        title: what tables call it.
        overrides: what it sets beside `task.shared_overrides`.
        seeds: of world, warm start, order of prompts and sampling; the same for all arms.
    """

    title: str
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]


MAIN_SEEDS, SEEDS, ONE_SEED = (0, 1, 2, 3, 4), (0, 1, 2), (1,)

BASELINES = {
    "grpo": Arm("GRPO", CHAINS + OUTCOME + TOKEN_RATIO, MAIN_SEEDS),
    "gspo": Arm("GSPO", CHAINS + OUTCOME + SEQUENCE_RATIO, MAIN_SEEDS),
    "dapo": Arm("DAPO-style", CHAINS + OUTCOME + TOKEN_RATIO_HIGHER + FILTER_GROUPS, SEEDS),
    "tree_grpo": Arm("Tree-GRPO-style", RANDOM_TREES + OUTCOME + TOKEN_RATIO, MAIN_SEEDS),
    "entropy_branching": Arm("entropy branching", OUTCOME + TOKEN_RATIO, SEEDS),
}
ATPO = {"atpo": Arm("AT²PO", TURN_RATIO, MAIN_SEEDS)}
ABLATIONS = {
    "atpo_random": Arm("AT²PO, random expansion", RANDOM_TREES + TURN_RATIO, SEEDS),
    "atpo_outcome": Arm("AT²PO, trajectory credit", OUTCOME + TURN_RATIO, SEEDS),
    "atpo_token": Arm("AT²PO, token-level loss", _loss("vanilla", "seq-mean-token-mean", 0.2, 0.2), SEEDS),
    "atpo_sequence": Arm("AT²PO, sequence-level loss", SEQUENCE_RATIO, SEEDS),
}
SETTINGS = {
    f"atpo_{value}": Arm(f"AT²PO, {setting}={value}", (*TURN_RATIO, f"algorithm.atpo.{key}={value}"), ONE_SEED)
    for setting, key, values in (
        ("backup", "credit.backup", ("child_mean", "leaf_mean")),
        ("advantage", "credit.advantage", ("diff_parent", "diff_global", "diff_localglobal")),
    )
    for value in values
} | {"atpo_alpha0": Arm("AT²PO, alpha=0", (*TURN_RATIO, "algorithm.atpo.expansion.penalty=0"), (0, 1))}

CLIPS = {
    f"{loss}_clip{high}": Arm(
        f"{title}, clip {low}/{high}",
        (*arm, *_loss(loss, "seq-mean-token-mean", low, high)),
        seeds,
    )
    for title, loss, arm in (("GSPO", "gspo", CHAINS + OUTCOME), ("AT²PO", "atpo", ()))
    for low, high, seeds in ((0.003, 0.004, ONE_SEED), (0.03, 0.04, MAIN_SEEDS), (0.2, 0.2, SEEDS))
    if (loss, high) != ("atpo", 0.004)  # the arm itself
}
"""Wider clip ranges than the published ones, which were chosen for models a thousand times larger."""

ARMS = {**BASELINES, **ATPO, **ABLATIONS, **SETTINGS, **CLIPS}

FOUR_CHAINS = (
    *ENTROPY,
    "algorithm.atpo.expansion.initial_chains=4",
    "algorithm.atpo.expansion.branches_per_round=4",
    "algorithm.atpo.expansion.rounds=3",
    "algorithm.atpo.expansion.schedule=continuous",
)
"""The trees that `+atpo=tree` grew when the runs on the clock were made."""
SIX_CHAINS = (
    *ENTROPY,
    "algorithm.atpo.expansion.initial_chains=6",
    "algorithm.atpo.expansion.branches_per_round=3",
    "algorithm.atpo.expansion.rounds=2",
    "algorithm.atpo.expansion.schedule=continuous",
)
MERGED = (
    "algorithm.atpo.credit.contexts=merged",
    "algorithm.atpo.credit.advantage=diff_localglobal",
    "algorithm.atpo.credit.scheme=null",
)
"""With these trees, what `+atpo=tree` was when the stored runs were made."""
PACKED = "+train=packed"
_OFTEN = ("trainer.test_freq=5",)
_GRPO = (*CHAINS, *OUTCOME, *_loss("vanilla", "seq-mean-token-mean", 0.2, 0.2), *_OFTEN)
WALL_CLOCK = {
    "clock_grpo": Arm("GRPO", _GRPO, MAIN_SEEDS),
    "clock_grpo_packed": Arm("packed GRPO", (*_GRPO, PACKED), MAIN_SEEDS),
    "clock_tree_packed": Arm(
        "AT²PO, 4 + 12 trajectories, packed",
        (*FOUR_CHAINS, *_loss("atpo", "seq-mean-token-mean", 0.03, 0.04), *_OFTEN, PACKED),
        MAIN_SEEDS,
    ),
    "clock_merged_packed": Arm(
        "tree 6 + 6 by entropy, packed",
        (*SIX_CHAINS, *MERGED, *_loss("atpo", "seq-mean-token-mean", 0.03, 0.04), *_OFTEN, PACKED),
        MAIN_SEEDS,
    ),
}
"""Earlier and current recommendation against GRPO, padded and packed, by wall clock."""
ALL = {**ARMS, **WALL_CLOCK}
MAIN = tuple(name for name, arm in {**BASELINES, **ATPO}.items() if arm.seeds == MAIN_SEEDS)

PARTS = (
    ("a tree instead of chains", "tree_grpo", "grpo"),
    ("entropy guidance instead of chance", "entropy_branching", "tree_grpo"),
    ("entropy guidance instead of chance", "atpo", "atpo_random"),
    ("turn-wise credit", "atpo_token", "entropy_branching"),
    ("turn-wise credit", "atpo", "atpo_outcome"),
    ("turn-level ratio instead of the token's", "atpo_clip0.2", "atpo_token"),
    ("turn-level ratio instead of the sequence's", "atpo", "atpo_sequence"),
    ("clip 0.03/0.04 instead of 0.003/0.004", "atpo_clip0.04", "atpo"),
    ("clip 0.03/0.04 instead of 0.0003/0.0004", "gspo_clip0.04", "gspo"),
)
"""A part of the method, an arm that has it, and the nearest one that lacks it."""
