"""The value of each part of a tree: the tree with it against the same tree without it."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import markdown
from benchmarks.lab.arms import ARMS
from benchmarks.lab.curves import Curve, interval, log_ratio, p_values, paired

PARTS = (
    ("the tree 6 + 6 by entropy instead of GRPO, both at twice the rate", "tree_6_states_lr0.001", "grpo_lr0.001"),
    ("the tree 6 + 6 by entropy instead of GRPO with 12 trajectories", "tree_6_states", "grpo_12"),
    ("its tree instead of as many chains", "tree_6_states", "chains_12_states"),
    ("its baselines of merged contexts beside the prompt's", "tree_6_states", "tree_6"),
    ("its selection by entropy instead of at random", "tree_6_states", "tree_6_random"),
    ("its backup by softmax instead of means", "tree_6_states", "tree_6_means"),
    ("its turn-level ratio instead of the token's", "tree_6_states", "tree_6_token"),
    ("6 + 6 trajectories instead of 4 + 12", "tree_6", "tree_4"),
    ("a tree instead of chains", "tree_4", "turn_chains"),
    ("a tree instead of GRPO with about its tokens a step", "tree_4", "grpo_12"),
    ("one in rounds instead of GRPO with about its tokens", "rounds_4", "grpo_12"),
    ("selection by entropy instead of at random", "tree_4", "tree_4_random"),
    ("turn-wise credit instead of the trajectory's", "tree_4", "tree_4_outcome"),
    ("turn-level ratio instead of the token's", "tree_4", "tree_4_token"),
    ("continuous growth instead of rounds", "tree_4", "rounds_4"),
    ("adaptive budget instead of a fixed one", "adaptive", "tree_4"),
    ("the preset's selection by noise instead of entropy", "tree", "tree_entropy"),
    ("the preset's credit instead of the earlier one's, both by entropy", "tree_entropy", "tree_6_states"),
    ("adaptive budget with spares instead of a fixed one", "tree_adaptive_12", "tree"),
    ("baselines of parents beside the prompt's", "tree_4_localglobal", "tree_4"),
    ("baselines of merged contexts beside the prompt's", "tree_4_states", "tree_4"),
)
"""A part, an arm that has it, and the same arm without it."""


def table(curves: Sequence[Curve], top: float, of: str = "") -> str:
    """Write a row per part: costs with it over costs without, p with Holm's correction over a column's parts.

    Args:
        curves: of one task.
        top: accuracy to reach, or share ``of`` something.
    """
    tried = {part: (having, lacking) for part, having, lacking in PARTS if _pairs(curves, having, lacking, top)}
    rows = {
        part: {"with it": ARMS[having].title, "without it": ARMS[lacking].title}
        for part, (having, lacking) in tried.items()
    }
    for cost, cost_name in (("sampled_tokens", "sampled tokens"), ("step", "steps")):
        heading = f"{cost_name} to {top:.0%}{of}"
        pairs = {part: _pairs(curves, *arms, top, cost) for part, arms in tried.items()}
        for part, p in p_values(pairs).items():
            found = interval(pairs[part])
            rows[part] |= {"paired runs": str(found.runs), heading: found.as_ratio(), f"p, {cost_name}": f"{p:.2g}"}
    return markdown.table(list(rows.values()))


def _pairs(
    curves: Sequence[Curve], having: str, lacking: str, target: float, cost: str = "sampled_tokens"
) -> dict[int, list[float]]:
    return paired(curves, having, lacking, log_ratio(target, cost))
