"""verl's FSDP2 engine, run over the distinct tokens of its rows.

The model sees packs: the distinct tokens of some rows, each at its own position, attending to its ancestors. The scores
of the counted tokens are put into verl's rows, in verl's layout, so that losses, metrics and trainer are not changed.
Sharding, optimizer, adapters and checkpoints are verl's own code.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.utils.metric import AggregationType, Metric
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.engine.utils import postprocess_batch_func

from verl_atpo.packed import VENDOR
from verl_atpo.packed.attention import NAME, RUNNING
from verl_atpo.packed.delta import run_over_tries
from verl_atpo.packed.head import Scoring, score_through_own_head
from verl_atpo.packed.models import check_layers, check_model, refusal
from verl_atpo.packed.packs import Pack, pack_tokens, plan_packs
from verl_atpo.packed.probe import probe
from verl_atpo.packed.rows import PackInputs, pack_inputs, row_tokens
from verl_atpo.packed.trie import SortedRows, sort_rows

LossFunction = Callable[..., tuple[torch.Tensor, dict[str, Any]]]


@EngineRegistry.register(model_type="language_model", backend="fsdp2", device=["cuda", "npu"], vendor=VENDOR)
class PackedEngine(FSDPEngineWithLMHead):
    """Language-model engine whose micro-batches are packs."""

    _pack: PackInputs

    def initialize(self) -> None:
        """Build the model as verl does, then check packed rows against rows run apart."""
        super().initialize()
        with self.eval_mode(), torch.no_grad(), self._autocast():
            probe(self.module, self._model, self._autocast_dtype, torch.device(get_device_id()))

    def _build_module(self) -> torch.nn.Module:
        """Load the model with the attention, layers and head of packs."""
        config = self.model_config.hf_config
        check_model(config)
        # Set before loading, so that no attention is asked for that is not installed. Images keep plain attention.
        text = config.get_text_config()
        config._attn_implementation = NAME if text is config else "sdpa"
        text._attn_implementation = NAME
        verls = self.model_config, self.use_remove_padding
        self.model_config, self.use_remove_padding = _without_fused_kernels(self.model_config), False
        try:
            module = super()._build_module()
        except KeyError as error:
            if NAME not in error.args:
                raise
            raise refusal(config, "its layers accept no attention but their own") from error
        finally:
            self.model_config, self.use_remove_padding = verls
        run_over_tries(module)
        score_through_own_head(module)
        self._model = module
        return module

    def _autocast(self) -> AbstractContextManager[Any]:
        """Compute in the type that verl's own forward step computes in."""
        if self._autocast_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device_type=get_device_name(), dtype=self._autocast_dtype)

    def forward_backward_batch(  # type: ignore[override]  # verl's annotation is not what verl returns
        self, data: TensorDict, loss_function: LossFunction, forward_only: bool = False
    ) -> dict[str, Any]:
        """Run a mini-batch, or a batch whose log-probabilities are wanted, pack by pack.

        Args:
            data: verl's rows of this rank.
            loss_function: loss of a pack's rows, normalised by the whole batch.
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
        """Add to ``data`` the counts by which losses are normalised."""
        tokens = data["loss_mask"].sum().to(get_device_id())
        torch.distributed.all_reduce(tokens, group=self.get_data_parallel_group())
        tu.assign_non_tensor(data, batch_num_tokens=tokens.item(), dp_size=self.get_data_parallel_size())

    def _plan(self, data: TensorDict, rows: SortedRows) -> list[Pack]:
        """Packs of this rank, as many as on the others, since sharded layers are gathered together."""
        packs = plan_packs(rows, token_budget(data))
        most = torch.tensor(len(packs), device=get_device_id())
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX, group=self.get_data_parallel_group())
        return plan_packs(rows, token_budget(data), at_least=int(most.item()))

    def forward_step(
        self, micro_batch: TensorDict, loss_function: LossFunction | None, forward_only: bool
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Make the pack while its rows are on the CPU, then run it as verl runs a micro-batch."""
        self._pack = pack_inputs(micro_batch, torch.device(get_device_id()))
        self._temperature = one_temperature(micro_batch["temperature"])
        return super().forward_step(micro_batch, loss_function, forward_only)

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the model's inputs for the distinct tokens of a micro-batch, and what its outputs will need."""
        pack = self._pack
        RUNNING.visibility = pack.visibility
        wanted = {
            "entropy": bool(tu.get(micro_batch, "calculate_entropy", False)),
            "sum_pi_squared": bool(tu.get(micro_batch, "calculate_sum_pi_squared", False)),
        }
        scoring = Scoring(pack.parent_K, pack.label_K, self._temperature, **wanted)
        return {"input_ids": pack.input_ids, "position_ids": pack.position_ids, "scoring": scoring}, {"pack": pack}

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, torch.Tensor]:
        """Put the scores of the counted tokens into the rows."""
        pack: PackInputs = output_args["pack"]
        check_layers(pack.visibility.calls, self.model_config.hf_config)
        return {name: pack.to_rows(value) for name, value in output.items()}


def _without_fused_kernels(model_config: Any) -> Any:
    """Return verl's settings of the model without its fused kernels, which the packs' own head replaces."""
    plain = copy.copy(model_config)
    object.__setattr__(plain, "use_fused_kernels", False)
    return plain


def token_budget(data: TensorDict) -> int:
    """Return the limit of a pack's distinct tokens: what verl would put into one micro-batch of these rows.

    With dynamic batch sizes that is the recipe's token limit, otherwise the tokens of verl's largest micro-batch.
    """
    if tu.get_non_tensor_data(data, "use_dynamic_bsz", True):
        return int(tu.get_non_tensor_data(data, "max_token_len_per_gpu", None))
    rows = int(tu.get_non_tensor_data(data, "micro_batch_size_per_gpu", None))
    return max(int(part.sum()) for part in data["input_ids"].offsets().diff().split(rows))


def one_temperature(temperature: float | torch.Tensor) -> float:
    """Return the temperature of all rows.

    Raises:
        ValueError: rows differ in it, so that an equal token has several log-probabilities.
    """
    values = torch.as_tensor(temperature, dtype=torch.float32).unique().tolist()
    if len(values) != 1:
        raise ValueError(f"rows of several temperatures ({values}) cannot be packed; leave out +train=packed.")
    return float(values[0])


def pack_metrics(rows: SortedRows, pack: Pack) -> dict[str, Metric]:
    """Describe the size of one pack; verl adds up or compares a mini-batch's packs, and averages over ranks."""
    distinct = pack_tokens(rows, pack)
    return {
        "packed/packs": Metric(AggregationType.SUM, 1),
        "packed/row_tokens": Metric(AggregationType.SUM, int(rows.length_R[slice(*pack)].sum())),
        "packed/run_tokens": Metric(AggregationType.SUM, distinct),
        "packed/pack_tokens_max": Metric(AggregationType.MAX, distinct),
    }
