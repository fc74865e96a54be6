"""The part of the CPU platform that runs inside vLLM's processes (entry-point group ``vllm.general_plugins``)."""

from typing import Any

import torch

from verl_atpo.platforms import cpu_platform_requested
from verl_atpo.seams.wrap import wrap_once


def register() -> None:
    """Make vLLM keep linear weights next to their packed copies, on vLLM's CPU platform with ``VERL_PLATFORM=cpu``.

    vLLM packs each linear weight after loading and replaces the original by an empty parameter without a loader, so
    that verl's next weight update fails. With the original weight still there the update succeeds, and verl's own call
    of ``process_weights_after_loading`` packs it again. The cost is a second copy of the linear weights in memory.
    Does nothing anywhere else; calling it again changes nothing.
    """
    if not cpu_platform_requested():
        return
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.model_executor.layers import utils

    wrap_once(utils, "dispatch_cpu_unquantized_gemm", _keeping_weights)


def _keeping_weights(original: Any) -> Any:
    def dispatch_and_keep(layer: torch.nn.Module, remove_weight: bool) -> None:
        original(layer, remove_weight=False)

    return dispatch_and_keep
