"""Conversion of a finished tree to verl's rows, whose token-level rewards carry the credit of their turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from verl.experimental.agent_loop import AgentLoopOutput

from verl_atpo.config import SharedTurns
from verl_atpo.method.channel import TurnCredit, write_row
from verl_atpo.method.scheme import Credit
from verl_atpo.tree.growth import GrownTree
from verl_atpo.tree.recording import version_fields
from verl_atpo.tree.trajectory import Trajectory


class LeafOutput(AgentLoopOutput):
    """A trajectory whose token-level rewards carry the credit of its turns."""

    token_rewards: list[float]
    """Shape (response tokens,); sums to ``reward_score``."""

    def as_dict(self) -> dict[str, Any]:
        """verl's fields of the row, with ``rm_scores`` (float32, shape (response tokens,)) taken from the tree."""
        fields = super().as_dict()
        fields["rm_scores"] = torch.tensor(fields.pop("token_rewards"), dtype=torch.float32)
        return fields


def leaf_outputs(
    grown: GrownTree, credit: Credit, shared_turns: SharedTurns, row_means: bool = False
) -> Iterator[LeafOutput]:
    """List all rows of a tree, in order of leaf number; see :func:`trajectory_rows`."""
    return chain.from_iterable(trajectory_rows(grown, credit, shared_turns, row_means))


def trajectory_rows(
    grown: GrownTree, credit: Credit, shared_turns: SharedTurns, row_means: bool = False
) -> Iterator[list[LeafOutput]]:
    """Make the rows of each trajectory of a tree, in order of leaf number.

    A trajectory has one row per stretch of turns in which its context was only added to. Each row carries the credit of
    its own turns and sums to the outcome, which counts in the statistics of the group in the last row only. A row of a
    few tokens gets up to three more, which are masked, so that its rewards have room for the credit.

    Args:
        grown: the tree.
        credit: credit of its turns.
        shared_turns: rows in which a turn of several trajectories is trained. With ``once``, a row of nothing but turns
            that another trajectory trains is left out, unless it is the last.
        row_means: whether the loss takes the mean over a row's tokens and then over rows (``seq-mean-token-mean``).
            Then the advantages of a row are multiplied by its share of the trajectory's trained tokens, so that a
            trajectory counts once, however many rows it has.
    """
    masks = trained_masks(grown, shared_turns)
    for trajectory, rows, turns, outcome in zip(grown.trajectories, masks, credit.rows, credit.outcomes, strict=True):
        found = []
        weights = token_shares(rows) if row_means else [1.0] * len(rows)
        carried = token_rewards(trajectory, turns, outcome, weights)
        for output, mask, rewards in zip(trajectory.outputs, rows, carried, strict=True):
            if any(mask) or output is trajectory.output:
                found.append(_leaf_output(output, mask, rewards, version_fields(trajectory.turns)))
        yield found


def _leaf_output(
    output: AgentLoopOutput, mask: list[int], rewards: list[float], versions: dict[str, int]
) -> LeafOutput:
    fields = {name: getattr(output, name) for name in output.model_fields_set}
    fields["extra_fields"] = {**output.extra_fields, **versions}
    missing = len(rewards) - len(mask)
    fields["response_mask"] = mask + [0] * missing
    fields["response_ids"] = output.response_ids + output.response_ids[-1:] * missing
    if output.response_logprobs is not None:
        fields["response_logprobs"] = output.response_logprobs + [0.0] * missing
    return LeafOutput(**fields, token_rewards=rewards)


def token_shares(masks: Sequence[Sequence[int]]) -> list[float]:
    """Share of each row in the trained tokens of its trajectory.

    >>> token_shares([[1, 0, 1], [0, 1, 1, 0], []])
    [0.5, 0.5, 0.0]
    """
    total = sum(map(sum, masks))
    return [sum(mask) / max(total, 1) for mask in masks]


def token_rewards(
    trajectory: Trajectory, turns: Sequence[TurnCredit], outcome: float, weights: Sequence[float]
) -> list[list[float]]:
    """Token-level rewards of each row of a trajectory: at least one per response token, see :func:`write_row`.

    Args:
        trajectory: with its rows.
        turns: credit of its turns.
        outcome: its reward.
        weights: factor of the advantages of each row.
    """
    rows = []
    for number, (output, weight) in enumerate(zip(trajectory.outputs, weights, strict=True)):
        own = [index for index, place in enumerate(trajectory.places) if place.row == number]
        starts = [trajectory.places[index].start for index in own]
        spans = [
            (start, start + len(trajectory.turns[index].token_ids)) for start, index in zip(starts, own, strict=True)
        ]
        counts = output is trajectory.output
        credits = [TurnCredit(weight * turns[index].advantage, turns[index].after) for index in own]
        rows.append(write_row(credits, spans, outcome, len(output.response_ids), counts))
    return rows


def trained_masks(grown: GrownTree, shared_turns: SharedTurns) -> list[list[list[int]]]:
    """Response masks of every row: sampled tokens, or with ``shared_turns=once`` those of own turns."""
    masks = []
    for rollout in grown.rollouts:
        if rollout.trajectory is None:
            continue
        rows = [list(output.response_mask) for output in rollout.trajectory.outputs]
        shared = grown.shared_turns(rollout) if shared_turns is SharedTurns.ONCE else 0
        for place, turn in list(zip(rollout.trajectory.places, rollout.trajectory.turns, strict=True))[:shared]:
            mask, end = rows[place.row], place.start + len(turn.token_ids)
            mask[place.start : end] = [0] * len(mask[place.start : end])
        masks.append(rows)
    return masks


def sampled_text(outputs: Sequence[AgentLoopOutput], tokenizer: PreTrainedTokenizerBase) -> str:
    """Decode the text that the policy itself wrote in a trajectory: sampled, not special tokens, a line a turn."""
    turns = []
    for output in outputs:
        marked = zip(output.response_ids, output.response_mask, strict=True)
        turns += [[token for token, _ in run] for sampled, run in groupby(marked, key=itemgetter(1)) if sampled]
    return "\n".join(str(tokenizer.decode(turn, skip_special_tokens=True)) for turn in turns)
