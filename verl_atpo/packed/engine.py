"""verl's FSDP2 engine, run over the distinct tokens of its rows.

The model sees packs: the distinct tokens of some rows, each at its own position, attending to its ancestors. What comes
out is put into verl's rows, in verl's layout, so that losses, metrics and trainer notice nothing. Everything else -
sharding, optimizer, adapters, checkpoints, the arithmetic on logits - is verl's own code.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.utils.metric import AggregationType, Metric
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.engine.utils import postprocess_batch_func

from verl_atpo.packed import VENDOR
from verl_atpo.packed.attention import NAME
from verl_atpo.packed.models import check_layers, check_model
from verl_atpo.packed.packs import Pack, pack_tokens, plan_packs
from verl_atpo.packed.rows import PackInputs, pack_inputs, row_tokens
from verl_atpo.packed.trie import SortedRows, sort_rows

LossFunction = Callable[..., tuple[torch.Tensor, dict[str, Any]]]


@EngineRegistry.register(model_type="language_model", backend="fsdp2", device=["cuda", "npu"], vendor=VENDOR)
class PackedEngine(FSDPEngineWithLMHead):
    """Language-model engine whose micro-batches are packs."""

    def _build_module(self) -> torch.nn.Module:
        check_model(self.model_config.hf_config)
        module = super()._build_module()
        module.set_attn_implementation(NAME)
        return module

    def forward_backward_batch(  # type: ignore[override]  # verl's annotation is not what verl returns
        self, data: TensorDict, loss_function: LossFunction, forward_only: bool = False
    ) -> dict[str, Any]:
        """Run a mini-batch, or a batch whose log-probabilities are wanted, pack by pack.

        Args:
            data: verl's rows of this rank.
            loss_function: of a pack's rows, normalised by the whole batch.
            forward_only: no gradients.

        Returns:
            verl's outputs, losses and metrics, the rows in the order of ``data``.
        """
        self._describe(data)
        rows = sort_rows(*row_tokens(data))
        packs = self._plan(data, rows)
        indices = [rows.order_R[begin:end].tolist() for begin, end in packs]
        outputs = []
        for number, index in enumerate(indices):
            micro_batch = tu.index_select_tensor_dict(data, index)
            sync = nullcontext() if forward_only else self._gradient_sync_context(
                is_last_micro_batch=number == len(packs) - 1)  # fmt: skip
            with torch.set_grad_enabled(not forward_only), sync, torch.profiler.record_function(f"pack{number}"):
                loss, output = self.forward_step(micro_batch, loss_function, forward_only)
                if not forward_only:
                    (loss if self.scaler is None else self.scaler.scale(loss)).backward()
                    if not tu.get_non_tensor_data(data, "return_model_output", False):
                        output.pop("model_output")  # as verl does: nobody reads it after the backward pass
                    output["metrics"].update(pack_metrics(rows, packs[number]))
            outputs.append(output)
        return postprocess_batch_func(outputs, indices, tu.get_tensordict({}, {"use_dynamic_bsz": True}))

    def _describe(self, data: TensorDict) -> None:
        """What the losses are normalised by."""
        tokens = data["loss_mask"].sum().to(get_device_id())
        torch.distributed.all_reduce(tokens, group=self.get_data_parallel_group())
        tu.assign_non_tensor(data, batch_num_tokens=tokens.item(), dp_size=self.get_data_parallel_size())

    def _plan(self, data: TensorDict, rows: SortedRows) -> list[Pack]:
        """Packs of this rank, as many as on the others, since sharded layers are gathered together."""
        packs = plan_packs(rows, token_budget(data))
        most = torch.tensor(len(packs), device=get_device_id())
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX, group=self.get_data_parallel_group())
        return plan_packs(rows, token_budget(data), at_least=int(most.item()))

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        """The model's inputs for the distinct tokens of a micro-batch, and what its outputs will need."""
        pack = pack_inputs(micro_batch, micro_batch["input_ids"].device)
        temperature = one_temperature(micro_batch["temperature"])
        model_inputs = {
            "input_ids": pack.input_ids,
            "position_ids": pack.position_ids,
            "attention_mask": None,
            "logits_to_keep": pack.parent_K,
            "trie": pack.sight,
        }
        output_args = {
            "pack": pack,
            "temperature_is_one": temperature == 1.0,
            "temperature_rmpad": torch.full_like(pack.label_K, temperature, dtype=torch.float32),
            "input_ids_rmpad_rolled": pack.label_K,
            "pad_size": 0,
        }
        return model_inputs, output_args

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, torch.Tensor]:
        """Log-probabilities and the like, computed by verl once for each counted token, then put into the rows."""
        pack: PackInputs = output_args["pack"]
        check_layers(pack.sight.calls, self.model_config.hf_config)
        ends = torch.tensor([0, len(pack.label_K)], device=pack.label_K.device)
        flags = {name: tu.get(micro_batch, name, False) for name in ("calculate_entropy", "calculate_sum_pi_squared")}
        one_row = TensorDict({"input_ids": torch.nested.nested_tensor_from_jagged(pack.label_K, ends)}, batch_size=[1])
        tu.assign_non_tensor(one_row, use_remove_padding=True, **flags)
        results = super().prepare_model_outputs(output, output_args, one_row, logits_processor_func)
        return {name: pack.to_rows(value.values()) for name, value in results.items()}


def token_budget(data: TensorDict) -> int:
    """Distinct tokens that a pack may have: what verl would put into one micro-batch of these rows.

    With dynamic batch sizes that is the recipe's token limit, otherwise the tokens of verl's largest micro-batch.
    """
    if tu.get_non_tensor_data(data, "use_dynamic_bsz", True):
        return int(tu.get_non_tensor_data(data, "max_token_len_per_gpu", None))
    rows = int(tu.get_non_tensor_data(data, "micro_batch_size_per_gpu", None))
    return max(int(part.sum()) for part in data["input_ids"].offsets().diff().split(rows))


def one_temperature(temperature: float | torch.Tensor) -> float:
    """The temperature of all rows.

    Raises:
        ValueError: rows differ in it, so that an equal token has several log-probabilities.
    """
    values = torch.as_tensor(temperature, dtype=torch.float32).unique().tolist()
    if len(values) != 1:
        raise ValueError(f"rows of several temperatures ({values}) cannot be packed; leave out +train=packed.")
    return float(values[0])


def pack_metrics(rows: SortedRows, pack: Pack) -> dict[str, Metric]:
    """Size of one pack; verl adds up or compares the packs of a mini-batch, and averages over ranks."""
    distinct = pack_tokens(rows, pack)
    return {
        "packed/packs": Metric(AggregationType.SUM, 1),
        "packed/row_tokens": Metric(AggregationType.SUM, int(rows.length_R[slice(*pack)].sum())),
        "packed/run_tokens": Metric(AggregationType.SUM, distinct),
        "packed/pack_tokens_max": Metric(AggregationType.MAX, distinct),
    }
