"""A finished tree as verl's rows: one ``AgentLoopOutput`` per leaf, whose rewards carry the credit of its turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from verl.experimental.agent_loop import AgentLoopOutput

from verl_atpo.config import SharedTurns
from verl_atpo.method.channel import TurnCredit, write_row
from verl_atpo.method.scheme import Credit
from verl_atpo.replay.runner import Branch
from verl_atpo.rollout.grown import GrownTree
from verl_atpo.tree.recording import NEWEST_VERSION, OLDEST_VERSION, versions


class LeafOutput(AgentLoopOutput):
    """A trajectory whose token-level rewards carry the credit of its turns."""

    token_rewards: list[float]
    """Shape (response tokens,); sums to ``reward_score``."""

    def as_dict(self) -> dict[str, Any]:
        """verl's fields of the row, with ``rm_scores`` (float32, shape (response tokens,)) taken from the tree."""
        fields = super().as_dict()
        fields["rm_scores"] = torch.tensor(fields.pop("token_rewards"), dtype=torch.float32)
        return fields


def leaf_outputs(grown: GrownTree, credit: Credit, shared_turns: SharedTurns) -> Iterator[LeafOutput]:
    """The rows of a tree, in order of leaf number.

    A row of a few tokens gets up to three more, which are masked, so that its rewards have room for the credit.

    Args:
        grown: the tree.
        credit: of its turns.
        shared_turns: how often a turn of several rows is trained.
    """
    masks = trained_masks(grown, shared_turns)
    for branch, mask, turns, outcome in zip(grown.branches, masks, credit.rows, credit.outcomes, strict=True):
        output: AgentLoopOutput = branch.output
        rewards = token_rewards(branch, turns, outcome)
        fields = {name: getattr(output, name) for name in output.model_fields_set}
        fields["extra_fields"] = {**output.extra_fields, **_versions(branch)}
        missing = len(rewards) - len(mask)
        fields["response_mask"] = mask + [0] * missing
        fields["response_ids"] = output.response_ids + output.response_ids[-1:] * missing
        if output.response_logprobs is not None:
            fields["response_logprobs"] = output.response_logprobs + [0.0] * missing
        yield LeafOutput(**fields, token_rewards=rewards)


def token_rewards(branch: Branch, turns: Sequence[TurnCredit], outcome: float) -> list[float]:
    """Token-level rewards of one trajectory: at least one per response token, see :func:`write_row`."""
    ends = [start + len(turn.token_ids) for start, turn in zip(branch.starts, branch.turns, strict=True)]
    return write_row(turns, list(zip(branch.starts, ends, strict=True)), outcome, len(branch.output.response_ids))


def trained_masks(grown: GrownTree, shared_turns: SharedTurns) -> list[list[int]]:
    """Response masks of every leaf's row: its sampled tokens, or with ``shared_turns=once`` those of its own turns."""
    masks = []
    for limb in grown.limbs:
        if limb.branch is None:
            continue
        own = limb.branch.starts[grown.shared_turns(limb)] if shared_turns is SharedTurns.ONCE else 0
        masks.append([bit if place >= own else 0 for place, bit in enumerate(limb.branch.output.response_mask)])
    return masks


def _versions(branch: Branch) -> dict[str, int]:
    """verl's fields for the versions of the weights that sampled a trajectory, shared turns included.

    Its asynchronous trainers need them in every row, and not every agent loop hands on what the engine said.
    """
    found = versions(branch.turns)
    return {} if found is None else dict(zip((OLDEST_VERSION, NEWEST_VERSION), found, strict=True))


def policy_text(output: AgentLoopOutput, tokenizer: PreTrainedTokenizerBase) -> str:
    """Text that the policy itself wrote: sampled tokens decoded without special ones, turns joined by newlines."""
    marked = zip(output.response_ids, output.response_mask, strict=True)
    turns = [[token for token, _ in run] for sampled, run in groupby(marked, key=itemgetter(1)) if sampled]
    return "\n".join(str(tokenizer.decode(turn, skip_special_tokens=True)) for turn in turns)
