"""A grown tree as verl's rows: one ``AgentLoopOutput`` per leaf, its rewards carrying the tree's values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from verl.experimental.agent_loop import AgentLoopOutput

from verl_atpo.config import CreditConfig, InformationGainConfig, SharedTurns
from verl_atpo.method.channel import is_marked, write_values
from verl_atpo.method.credit import carried_values
from verl_atpo.method.gain_channel import write_credits
from verl_atpo.method.information_gain import row_credits
from verl_atpo.method.returns import leaf_returns
from verl_atpo.replay.runner import Branch
from verl_atpo.rollout.grown import GrownTree
from verl_atpo.tree.recording import NEWEST_VERSION, OLDEST_VERSION, versions
from verl_atpo.tree.tree import ROOT


class LeafOutput(AgentLoopOutput):
    """A trajectory whose reward is spread over its tokens as differences between the values of its turns."""

    token_rewards: list[float]
    """Shape (response tokens,); sums to ``reward_score``."""

    def as_dict(self) -> dict[str, Any]:
        """verl's fields of the row, with ``rm_scores`` (float32, shape (response tokens,)) taken from the tree."""
        fields = super().as_dict()
        fields["rm_scores"] = torch.tensor(fields.pop("token_rewards"), dtype=torch.float32)
        return fields


def leaf_outputs(
    grown: GrownTree, credit: CreditConfig, gains: InformationGainConfig | None = None
) -> Iterator[LeafOutput]:
    """The rows of a tree, in order of leaf number.

    Values are raw, on the scale of the reward: the estimator normalises them, and every backup commutes with that.

    Args:
        grown: the tree.
        credit: how turns are credited.
        gains: credits them with information gains instead; the tree then has its ``answers``.
    """
    rewards_of_rows = token_rewards(grown, credit) if gains is None else gain_rewards(grown, gains)
    for branch, mask, rewards in zip(grown.branches, trained_masks(grown, credit), rewards_of_rows, strict=True):
        output: AgentLoopOutput = branch.output
        fields = {name: getattr(output, name) for name in output.model_fields_set}
        fields["extra_fields"] = {**output.extra_fields, **_versions(branch)}
        fields["response_mask"] = mask
        yield LeafOutput(**fields, token_rewards=rewards)


def trained_masks(grown: GrownTree, credit: CreditConfig) -> list[list[int]]:
    """Response masks of every leaf's row: its sampled tokens, or with ``shared_turns=once`` those of its own turns."""
    masks = []
    for limb in grown.limbs:
        if limb.branch is None:
            continue
        own = limb.branch.starts[grown.shared_turns(limb)] if credit.shared_turns is SharedTurns.ONCE else 0
        masks.append([bit if place >= own else 0 for place, bit in enumerate(limb.branch.output.response_mask)])
    return masks


def _versions(branch: Branch) -> dict[str, int]:
    """verl's fields for the versions of the weights that sampled a trajectory, shared turns included.

    Its asynchronous trainers need them in every row, and not every agent loop hands on what the engine said.
    """
    found = versions(branch.turns)
    return {} if found is None else dict(zip((OLDEST_VERSION, NEWEST_VERSION), found, strict=True))


def token_rewards(grown: GrownTree, credit: CreditConfig) -> list[list[float]]:
    """Those of every leaf's row; plain outcomes where all rows are too short to say that they come from a tree."""
    values, returns = carried_values(grown.tree, credit), leaf_returns(grown.tree, credit.tool_rewards)
    root_value = values[ROOT]
    assert root_value is not None  # every leaf of a grown tree has a reward
    rows = []
    for branch, leaf in zip(grown.branches, grown.leaves, strict=True):
        turn_values = [value for node in grown.tree.path(leaf) if (value := values[node]) is not None]
        length = len(branch.output.response_ids)
        outcome = None if credit.carries_values else returns[leaf]
        rows.append(write_values(turn_values, branch.starts, root_value, length, outcome))
    return _marked(rows, [returns[leaf] or 0.0 for leaf in grown.leaves])


def gain_rewards(grown: GrownTree, gains: InformationGainConfig) -> list[list[float]]:
    """Those of every leaf's row, carrying what information gains give its turns; plain outcomes as above."""
    assert grown.answers is not None, "nobody asked how likely the gold answer is"
    credits = row_credits(grown.tree, grown.answers.log_probs, grown.paths, gains)
    rows = []
    for branch, credit in zip(grown.branches, credits, strict=True):
        ends = [start + len(turn.token_ids) for start, turn in zip(branch.starts, branch.turns, strict=True)]
        spans = list(zip(branch.starts, ends, strict=True))
        rows.append(write_credits(credit, spans, branch.reward, len(branch.output.response_ids)))
    return _marked(rows, grown.outcomes)


def _marked(rows: list[list[float]], outcomes: Sequence[float]) -> list[list[float]]:
    """The rows, if any of them says that they come from a tree; else their outcomes on their last tokens."""
    if any(map(is_marked, rows)):
        return rows
    return [[0.0] * (len(row) - 1) + [outcome] for row, outcome in zip(rows, outcomes, strict=True)]


def policy_text(output: AgentLoopOutput, tokenizer: PreTrainedTokenizerBase) -> str:
    """What the policy itself wrote: the sampled tokens decoded, special ones left out, turns joined by newlines."""
    marked = zip(output.response_ids, output.response_mask, strict=True)
    turns = [[token for token, _ in run] for sampled, run in groupby(marked, key=itemgetter(1)) if sampled]
    return "\n".join(str(tokenizer.decode(turn, skip_special_tokens=True)) for turn in turns)
