"""A grown tree as verl's rows: one ``AgentLoopOutput`` per leaf, its rewards carrying the tree's values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from verl.experimental.agent_loop import AgentLoopOutput

from verl_atpo.config import CreditConfig, SharedTurns
from verl_atpo.method.credit import node_values, shape_token_rewards
from verl_atpo.method.tree import ROOT
from verl_atpo.replay.turns import NEWEST_VERSION, OLDEST_VERSION, versions
from verl_atpo.rollout.grower import Branch, GrownTree


class LeafOutput(AgentLoopOutput):
    """A trajectory whose reward is spread over its tokens as differences between the values of its turns."""

    token_rewards: list[float]
    """Shape (response tokens,); sums to ``reward_score``."""

    def as_dict(self) -> dict[str, Any]:
        """verl's fields of the row, with ``rm_scores`` (float32, shape (response tokens,)) taken from the tree."""
        fields = super().as_dict()
        fields["rm_scores"] = torch.tensor(fields.pop("token_rewards"), dtype=torch.float32)
        return fields


def leaf_outputs(grown: GrownTree, credit: CreditConfig) -> Iterator[LeafOutput]:
    """The rows of a tree, in order of leaf number.

    Values are raw, on the scale of the reward: the estimator normalises them, and every backup commutes with that.
    """
    values = node_values(grown.tree, credit.backup)
    root_value = values[ROOT]
    assert root_value is not None  # every leaf of a grown tree has a reward
    for leaf in grown.leaves:
        output: AgentLoopOutput = leaf.branch.output
        path = grown.tree.path(leaf.node)
        starts = leaf.branch.starts
        turn_values = [value for node in path if (value := values[node]) is not None]
        rewards = shape_token_rewards(turn_values, starts, root_value, len(output.response_ids))
        fields = {name: getattr(output, name) for name in output.model_fields_set}
        fields["extra_fields"] = {**output.extra_fields, **_versions(leaf.branch)}
        if credit.shared_turns is SharedTurns.ONCE:
            own = starts[len(path) - leaf.own_turns]
            fields["response_mask"] = [0] * own + output.response_mask[own:]
        yield LeafOutput(**fields, token_rewards=rewards)


def _versions(branch: Branch) -> dict[str, int]:
    """verl's fields for the versions of the weights that sampled a trajectory, shared turns included.

    Its asynchronous trainers need them in every row, and not every agent loop hands on what the engine said.
    """
    found = versions(branch.turns)
    return {} if found is None else dict(zip((OLDEST_VERSION, NEWEST_VERSION), found, strict=True))
