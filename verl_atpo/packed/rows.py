"""Conversion of verl's rows to the inputs of a pack, and of the pack's results to verl's rows.

The model gives one log-probability for each distinct token that some row counts (``response_mask``). The others,
prompts and observations, are not read: no logits are made for them, and their places in the rows hold 0.

Suffixes: ``_T`` tokens of all rows, ``_K`` counted distinct tokens, ``_N`` tokens of the pack.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.model import extract_multi_modal_inputs

from verl_atpo.packed.trie import Ints, build_trie
from verl_atpo.packed.visibility import Visibility


@dataclasses.dataclass(frozen=True)
class PackInputs:
    """One pack, on the device it runs on.

    Attributes:
        input_ids: (1, N) distinct tokens, on an accelerator padded to a multiple of 128.
        position_ids: (1, N) their positions in their rows.
        visibility: tokens that each token sees.
        parent_K: token of the pack whose logits predict each counted token.
        label_K: the counted tokens' ids.
        place_T: counted token whose results are at each place of the rows, K where there is none. As in verl, the
            results for a token are at the place of the one before it.
        offsets: (rows + 1) where the rows begin.
        distinct: tokens of the pack without padding.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    visibility: Visibility
    parent_K: torch.Tensor
    label_K: torch.Tensor
    place_T: torch.Tensor
    offsets: torch.Tensor
    distinct: int

    def to_rows(self, value_K: torch.Tensor) -> torch.Tensor:
        """Results of the counted tokens in verl's layout: a jagged tensor with the rows' offsets, 0 elsewhere.

        The gradient of a token is the sum over its rows.
        """
        value = torch.cat([value_K, value_K.new_zeros(1)]).index_select(0, self.place_T)
        return torch.nested.nested_tensor_from_jagged(value, self.offsets)


def pack_inputs(micro_batch: TensorDict, device: torch.device) -> PackInputs:
    """Make the pack of a micro-batch.

    Args:
        micro_batch: verl's rows, best on the CPU, where packs are made: ``input_ids`` and ``position_ids`` jagged,
            ``response_mask`` jagged or padded.
        device: where the model runs.

    Raises:
        ValueError: rows with images, or with positions that are not 0, 1, 2, ...
    """
    token_T, offsets = row_tokens(micro_batch)
    trie = build_trie(token_T, offsets)
    _check(micro_batch, trie.depth_N[trie.slot_T])
    counted_T = np.flatnonzero(_counted(micro_batch, offsets) & (trie.depth_N[trie.slot_T] > 0))
    target_K, rank = np.unique(trie.slot_T[counted_T], return_inverse=True)
    parent_K, label_K = trie.parent_N[target_K], trie.token_N[target_K]
    if not len(target_K):  # padding only; the backward pass, in which all ranks take part, needs something to begin at
        parent_K, label_K = np.zeros(1, dtype=np.int64), trie.token_N[:1]
    place_T = np.full(len(token_T), len(parent_K))
    place_T[counted_T - 1] = rank
    visibility = Visibility(trie, device)
    padding = visibility.tokens - len(trie)

    def on_device(values: Ints) -> torch.Tensor:
        return torch.from_numpy(values).to(device)

    return PackInputs(
        input_ids=on_device(np.pad(trie.token_N, (0, padding)))[None],
        position_ids=on_device(np.pad(trie.depth_N, (0, padding)))[None],
        visibility=visibility,
        parent_K=on_device(parent_K),
        label_K=on_device(label_K),
        place_T=on_device(place_T),
        offsets=micro_batch["input_ids"].offsets().to(device),
        distinct=len(trie),
    )


def row_tokens(data: TensorDict) -> tuple[Ints, Ints]:
    """Return the token ids of all rows, one row after the other, and the rows' first indices."""
    input_ids = data["input_ids"]
    return input_ids.values().cpu().numpy(), input_ids.offsets().cpu().numpy()


def _counted(data: TensorDict, offsets: Ints) -> npt.NDArray[np.bool_]:
    """Return the mask of the tokens that the losses count. A row ends with its response."""
    mask = data["response_mask"]
    if mask.is_nested:
        lengths, flags = mask.offsets().diff().cpu().numpy(), mask.values().cpu().numpy()
    else:
        valid = data["attention_mask"][:, -mask.shape[1] :].bool()
        lengths, flags = valid.sum(1).cpu().numpy(), mask[valid].cpu().numpy()
    counted = np.zeros(offsets[-1], dtype=bool)
    first = np.repeat(offsets[1:] - np.cumsum(lengths), lengths)
    counted[first + np.arange(len(first))] = flags.astype(bool)
    return counted


def _check(data: TensorDict, depth_T: Ints) -> None:
    """Refuse rows whose tokens are not known by their ids and depths; positions may be of several equal kinds."""
    if media := sorted(extract_multi_modal_inputs(tu.get(data, "multi_modal_inputs", []))):
        raise ValueError(f"rows with images, video or audio ({', '.join(media)}) cannot be packed; leave out "
                         "+train=packed.")  # fmt: skip
    positions = data["position_ids"].values().cpu().numpy().reshape(-1, len(depth_T))
    if not (positions == depth_T).all():
        raise ValueError("position_ids are not 0, 1, 2, ... in every row, so equal prefixes may differ; leave out "
                         "+train=packed.")  # fmt: skip
