"""Rows in the layout in which verl's trainer gives them to its engines."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from tensordict import TensorDict


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of several prompts, a list entry each.

    Attributes:
        prompts: the prompt's tokens.
        responses: tokens sampled and observed.
        masks: 1 where sampled.
        uids: name of the prompt.
        advantages: of the whole row.
    """

    prompts: list[list[int]]
    responses: list[list[int]]
    masks: list[list[int]]
    uids: list[str]
    advantages: list[float]

    def whole(self) -> list[list[int]]:
        """Prompts and responses together."""
        return [prompt + response for prompt, response in zip(self.prompts, self.responses, strict=True)]


def batch_of(rows: Rows, chosen: list[int], seed: int, **settings: object) -> TensorDict:
    """The chosen rows as an engine gets them.

    Args:
        rows: all rows.
        chosen: which of them, in which order.
        seed: of the old and the reference model's log-probabilities, drawn for each row by itself.
        settings: what verl gives its engines with the rows.
    """
    draws = [np.random.default_rng((seed, row)).random((2, len(rows.responses[row]))) for row in chosen]
    whole = rows.whole()
    masks = _jagged([rows.masks[row] for row in chosen])
    tensors = {
        "input_ids": _jagged([whole[row] for row in chosen]),
        "position_ids": _jagged([list(range(len(whole[row]))) for row in chosen]),
        "prompts": _jagged([rows.prompts[row] for row in chosen]),
        "responses": _jagged([rows.responses[row] for row in chosen]),
        "response_mask": masks,
        "loss_mask": masks,
        "old_log_probs": _jagged([(-3 * draw[0]).tolist() for draw in draws], torch.float32),
        "ref_log_prob": _jagged([(-3 * draw[1]).tolist() for draw in draws], torch.float32),
        "advantages": _jagged([[rows.advantages[row]] * len(rows.masks[row]) for row in chosen], torch.float32),
    }
    from verl.utils import tensordict_utils as tu  # rows alone need no verl

    return tu.get_tensordict(tensors, {"temperature": 0.7, "pad_token_id": 0, **settings})


def counted(rows: Rows, chosen: list[int], values: torch.Tensor) -> list[torch.Tensor]:
    """An engine's jagged results at the places that a loss reads: those of sampled tokens, one tensor a row."""
    return [
        value[len(rows.prompts[row]) - 1 : -1][torch.tensor(rows.masks[row], dtype=torch.bool)]
        for row, value in zip(chosen, values.unbind(), strict=True)
    ]


def _jagged(rows: list[list[int]] | list[list[float]], dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.tensor(row, dtype=dtype) for row in rows], layout=torch.jagged)


def random_trees(seed: int, groups: int = 3, rows: int = 6, vocabulary: int = 47, padding: int = 0) -> Rows:
    """Trees grown at random: a row leaves one of its prompt's earlier rows anywhere and goes on by itself.

    Among them are rows equal to others, rows of one sampled token, rows cut inside a turn, and rows with nothing to
    train on; all prompts begin alike.

    Args:
        seed: of it all.
        groups: prompts.
        rows: rows a prompt.
        vocabulary: number of token ids.
        padding: rows that verl adds: equal prompts, one response token that is not sampled.
    """
    random = np.random.default_rng(seed)

    def draw(count: int) -> list[int]:
        return random.integers(4, vocabulary, count).tolist()

    system = draw(3)
    found = Rows([], [], [], [], [])
    for group in range(groups):
        prompt, grown = system + draw(int(random.integers(1, 6))), []
        for _ in range(rows):
            parent = grown[random.integers(len(grown))] if grown else ([], [])
            kept = int(random.integers(len(parent[0]) + 1)) if grown else 0
            response, mask = parent[0][:kept], parent[1][:kept]
            for turn in range(int(random.integers(0 if kept else 1, 4))):
                length = int(random.integers(1, 5))
                response, mask = response + draw(length), mask + [(turn + 1) % 2] * length
            grown.append((response, mask))
            found.prompts.append(prompt)
            found.responses.append(response)
            found.masks.append([0] * len(mask) if random.random() < 0.1 else mask)
            found.uids.append(f"{group:032x}")
    for _ in range(padding):
        found.prompts.append([2] * 5)
        found.responses.append([2])
        found.masks.append([0])
        found.uids.append("pad")
    found.advantages.extend(random.standard_normal(len(found.uids)).tolist())
    return found
