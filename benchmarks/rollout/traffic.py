"""Network traffic per leaf, measured on the objects that verl sends: pickled, in bytes."""

from __future__ import annotations

import asyncio
from typing import Any

import ray.cloudpickle
import torch
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from benchmarks.rollout.engine import InstantClient
from benchmarks.rollout.schedules import Batch, grow
from verl_atpo.config import AtpoConfig, SharedTurns
from verl_atpo.method.scheme import find_scheme
from verl_atpo.rollout.rows import LeafOutput, leaf_outputs
from verl_atpo.tree.growth import GrownTree
from verl_atpo.tree.recording import contexts_of


def bytes_per_leaf(batch: Batch) -> list[dict[str, Any]]:
    """Mean bytes per leaf of trees, and of as many chains, for each way that a leaf's data takes."""
    trees = asyncio.run(grow(InstantClient(), batch))
    asked = answered = asked_by_chains = answered_to_chains = 0
    branches = [branch for tree in trees for branch in tree.trajectories]
    for branch in branches:
        contexts = contexts_of(branch.generations)
        for number, (generation, prompt_ids) in enumerate(zip(branch.generations, contexts, strict=True)):
            request, answer = _size(prompt_ids), _size(generation.output)
            asked_by_chains += request
            answered_to_chains += answer
            if number >= branch.replayed:
                asked += request
                answered += answer
    rows = [_size(list_of_dict_to_tensordict([_row(output)])) for tree in trees for output in _outputs(tree)]
    tokens = sum(len(output.prompt_ids) + len(output.response_ids) for tree in trees for output in _outputs(tree))
    return [
        _table_row("contexts, worker to engine", asked, asked_by_chains, len(branches)),
        _table_row("sampled tokens and log-probs, engine to worker", answered, answered_to_chains, len(branches)),
        _table_row("row, worker to storage", sum(rows), sum(rows), len(branches)),
        _table_row("tokens of the row (for comparison)", tokens, tokens, len(branches)),
    ]


def _table_row(what: str, trees: int, chains: int, leaves: int) -> dict[str, Any]:
    return {"what": what, "trees": trees / leaves, "same leaves as chains": chains / leaves}


def _outputs(tree: GrownTree) -> list[LeafOutput]:
    return list(leaf_outputs(tree, find_scheme(AtpoConfig()).credit(tree.tree, tree.paths), SharedTurns.PER_LEAF))


def _row(output: LeafOutput) -> dict[str, Any]:
    """The tensors of a row as ``AgentLoopWorkerTQ`` writes them."""
    fields = output.as_dict()
    input_ids = torch.tensor(output.prompt_ids + output.response_ids)
    tensors = {
        "input_ids": input_ids,
        "position_ids": torch.arange(len(input_ids)),
        "loss_mask": fields["response_mask"],
    }
    log_probs = {"rollout_log_probs": torch.zeros(len(output.response_ids))}
    return {**{key: value for key, value in fields.items() if isinstance(value, torch.Tensor)}, **tensors, **log_probs}


def _size(value: Any) -> int:
    return len(ray.cloudpickle.dumps(value))
