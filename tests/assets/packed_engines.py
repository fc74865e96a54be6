"""verl's own FSDP2 engine and the packed one, made in the same way."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from verl.trainer.config import CheckpointConfig
from verl.workers.config import ActorConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig, PolicyLossConfig
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.utils.losses import ppo_loss

from verl_atpo.packed.engine import PackedEngine

ENGINES = {"verl": FSDPEngineWithLMHead, "packed": PackedEngine}


def make_engine(
    name: str, model: Path, *, dtype: str = "fp32", checkpointing: bool = False, lora_rank: int = 0,
    remove_padding: bool = False, attention: str = "sdpa", lr: float = 1e-3, reference: bool = False,
    fused_kernels: bool = False,
) -> Any:  # fmt: skip
    """An engine, with its optimizer; a process group must be there.

    AdamW's epsilon is far above rounding errors, which its first step would otherwise blow up to whole steps wherever a
    gradient is nothing but rounding.

    Args:
        name: ``verl`` or ``packed``.
        model: folder of the checkpoint.
        dtype: in which the model computes.
        checkpointing: gradient checkpointing.
        lora_rank: of adapters, 0 for none.
        remove_padding: verl's way of running rows without padding, for accelerators.
        attention: verl's attention.
        lr: learning rate.
        reference: an engine of the reference model, whose weights verl offloads, without an optimizer.
        fused_kernels: verl's fused kernels.
    """
    torch.manual_seed(1)
    precision = {"param_dtype": dtype, "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    engine = ENGINES[name](
        HFModelConfig(
            path=str(model),
            load_tokenizer=False,
            use_remove_padding=remove_padding,
            override_config={"attn_implementation": attention},
            enable_gradient_checkpointing=checkpointing,
            lora_rank=lora_rank,
            use_fused_kernels=fused_kernels,
            fused_kernel_options={"impl_backend": "torch"} if fused_kernels else {},
        ),
        FSDPEngineConfig(
            strategy="fsdp2",
            use_torch_compile=False,
            mixed_precision=precision,
            model_dtype="fp32",
            forward_only=reference,
        ),
        FSDPOptimizerConfig(lr=lr, override_optimizer_config={"eps": 1e-5}),
        CheckpointConfig(),
    )
    engine.initialize()
    return engine


def make_loss(mode: str = "atpo", aggregation: str = "seq-mean-token-mean", **more: Any) -> Any:
    """verl's loss function.

    Args:
        mode: its name in verl.
        aggregation: over tokens and rows.
        more: further settings of the actor.
    """
    config = ActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        use_dynamic_bsz=True,
        loss_agg_mode=aggregation,
        policy_loss=PolicyLossConfig(loss_mode=mode),
        clip_ratio_low=0.5,
        clip_ratio_high=0.6,
        **more,
    )
    return functools.partial(ppo_loss, config=config)
