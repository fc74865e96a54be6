"""The platform ``cpu`` of verl: a machine without an accelerator, whose cores play one or more logical devices.

verl creates the platform named by ``VERL_PLATFORM`` and asks it for everything that depends on the device. Ray counts
logical devices as its resource ``GPU`` (``ray_kwargs.ray_init.num_gpus``), which needs no such hardware.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

from verl_atpo.platforms import PLATFORM_NAME, cpu_device

ROLLOUT_ENV_DEFAULTS = {
    # GiB. vLLM's own default is a share of the whole machine's memory, per replica.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # No pinning: trainer and rollout take turns on the same cores, and two replicas would pin the same cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # Keeps the preset's executor "uni"; otherwise vLLM's CPU platform changes it to "mp" to bind threads, see above.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # vLLM compiles a helper of its sampler (a comparison and a sum) even in eager mode: C++ compiler runs at start-up.
    "TORCH_COMPILE_DISABLE": "1",
}


@PlatformRegistry.register(platform=PLATFORM_NAME)
class CpuPlatform(PlatformBase):
    """verl on host cores: FSDP2 over gloo, weights to vLLM through shared memory."""

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        return cpu_device

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Return False: auto-detection must never choose a CPU (a GPU cluster's head node may have no GPU)."""
        return False

    def current_device(self) -> torch.device:  # type: ignore[override]
        """Return the CPU as a device: verl hands this to ``tensor.to``, where an index would mean an accelerator."""
        return torch.device("cpu")

    def device_count(self) -> int:
        return cpu_device.device_count()

    def set_device(self, device_index: int) -> None:
        cpu_device.set_device(device_index)

    def synchronize(self, device_index: int | None = None) -> None:
        cpu_device.synchronize(device_index)

    def manual_seed(self, seed: int) -> None:
        cpu_device.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        cpu_device.manual_seed_all(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """Do nothing: the host allocator has no such settings."""

    def empty_cache(self) -> None:
        cpu_device.empty_cache()

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """Return the variable in which Ray tells an actor which of its resource ``GPU`` it was given."""
        return "CUDA_VISIBLE_DEVICES"

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        """Return no variable: nothing on this platform reads device visibility, so Ray may set it."""
        return []

    def is_ipc_supported(self) -> bool:
        """Return False: weights go to the rollout through shared memory instead of device memory handles."""
        return False

    def rollout_env_vars(self) -> dict[str, str]:
        """Return vLLM's CPU settings for rollout processes; a value set by the user wins over the default."""
        return {name: os.environ.get(name, default) for name, default in ROLLOUT_ENV_DEFAULTS.items()}

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        """Mark nothing: there is no range profiler."""
        yield

    def profiler_start(self) -> None:
        """Do nothing: there is no device profiler."""

    def profiler_stop(self) -> None:
        """Do nothing: there is no device profiler."""

    def cudart(self) -> Any:
        return None
