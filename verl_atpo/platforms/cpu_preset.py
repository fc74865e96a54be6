"""The Hydra preset that turns any verl recipe into a CPU run: ``VERL_PLATFORM=cpu ... main_ppo +platform=cpu ...``.

The preset is plain data for Hydra's ConfigStore (package ``_global_``). It cannot set the environment of the process
that reads it, so ``trainer.device`` is an interpolation: verl's ``main_ppo`` reads it first of all, and
:func:`require_cpu_platform` then refuses a run that was started without ``VERL_PLATFORM=cpu``, naming the remedy.
"""

import os
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from verl_atpo.platforms import PLATFORM_ENV, PLATFORM_NAME, cpu_platform_requested, own_ray

RESOLVER = "verl_atpo.cpu_device"
TRANSFER_RESOLVER = "verl_atpo.weight_transfer"
THREADS_ENV = "OMP_NUM_THREADS"

# Most CPUs emulate bf16 (2 to 3 times slower), and in fp32 rollout and training agree on probabilities to 1e-9.
FULL_PRECISION = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}

CPU_PRESET: dict[str, Any] = {
    "hydra": {"callbacks": {"cpu_platform": {"_target_": f"{__name__}.ShareCores"}}},
    "trainer": {"device": f"${{{RESOLVER}:}}", "n_gpus_per_node": 1, "nnodes": 1},
    "ray_kwargs": {
        "ray_init": {
            "address": own_ray.ADDRESS,
            "num_cpus": own_ray.CPUS,
            "num_gpus": own_ray.DEVICES,
            "include_dashboard": False,
            "runtime_env": {
                "env_vars": {
                    # For workers on other nodes, which do not inherit the driver's environment.
                    PLATFORM_ENV: PLATFORM_NAME,
                    # Threads that wait by spinning stop one another where processes outnumber cores.
                    "OMP_WAIT_POLICY": "PASSIVE",
                }
            },
        },
    },
    # The default of 8 storage actors never all come up on 2 cores.
    "transfer_queue": {"backend": {"SimpleStorage": {"num_data_storage_units": 1}}},
    "data": {"dataloader_num_workers": 0},
    "reward": {"num_workers": 1},
    "critic": {
        "strategy": "fsdp2",
        "fsdp": {"mixed_precision": FULL_PRECISION},
        "model": {"use_remove_padding": False, "override_config": {"attn_implementation": "sdpa"}},
    },
    "actor_rollout_ref": {
        "model": {"use_remove_padding": False, "override_config": {"attn_implementation": "sdpa"}},
        "actor": {
            "strategy": "fsdp2",
            "use_torch_compile": False,
            "fsdp_config": {"mixed_precision": FULL_PRECISION, "use_torch_compile": False},
        },
        "ref": {"fsdp_config": {"mixed_precision": FULL_PRECISION}},
        "rollout": {
            "name": "vllm",
            "dtype": "float32",
            "tensor_model_parallel_size": 1,
            "enforce_eager": True,
            "free_cache_engine": False,
            "enable_sleep_mode": False,
            # One process a replica, not a scheduler and a worker that spin for each other; "mp" for tensor parallelism.
            "engine_kwargs": {"vllm": {"distributed_executor_backend": "uni"}},
            "checkpoint_engine": {
                "backend": f"${{{TRANSFER_RESOLVER}:${{trainer.v1.trainer_mode}}}}",
                "custom_backend_module": "verl_atpo.platforms.gloo_weights",
                "update_weights_bucket_megabytes": 128,
            },
            "agent": {"num_workers": 1},
        },
    },
}

QUICK_SAMPLER_PRESET: dict[str, Any] = {
    "trainer": {
        "v1": {
            "sampler": {
                "custom_sampler": {
                    "path": "pkg://verl_atpo.platforms.quick_replay_buffer",
                    "name": "quick_replay_buffer",
                },
                "sampler_kwargs": {
                    "poll_interval": 0.1,  # seconds; verl's own buffer polls every 2
                    "sync_refill_failed_groups": "${trainer.v1.sampler.sync_refill_failed_groups}",
                    "filter_groups": "${oc.select:algorithm.filter_groups,null}",
                },
            }
        }
    }
}


def require_cpu_platform() -> str:
    """Return ``cpu`` for ``trainer.device`` if this process runs on the CPU platform.

    Raises:
        RuntimeError: the preset ``platform=cpu`` was chosen without ``VERL_PLATFORM=cpu`` in the environment.
    """
    if not cpu_platform_requested():
        raise RuntimeError(
            f"the preset platform=cpu needs the environment variable {PLATFORM_ENV}={PLATFORM_NAME}, got "
            f"{PLATFORM_ENV}={os.environ.get(PLATFORM_ENV, '')}; start the run with "
            f"`{PLATFORM_ENV}={PLATFORM_NAME} python -m verl.trainer.main_ppo +platform=cpu ...`, "
            "or leave the preset out."
        )
    return PLATFORM_NAME


def weight_transfer(trainer_mode: str) -> str:
    """Name verl's checkpoint engine: shared memory where trainer and engine share a device, else gloo."""
    return "gloo" if trainer_mode == "separate_async" else "naive"


class ShareCores(Callback):
    """Hydra callback of the preset that divides the cores of this machine among the logical devices.

    Ray gives an actor one thread unless ``OMP_NUM_THREADS`` says otherwise, and the workers of a cluster that
    ``main_ppo`` starts inherit the driver's environment. A value set by the user is kept.
    """

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Set ``OMP_NUM_THREADS`` to cores per logical device, at least 1, before Ray starts."""
        os.environ.setdefault(THREADS_ENV, str(threads_per_device(own_ray.devices_per_node(config))))


def threads_per_device(devices: int) -> int:
    """Return the cores that this process may use per logical device; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // devices)


def register_resolver() -> None:
    """Register the interpolations that ``CPU_PRESET`` uses with OmegaConf; calling it again changes nothing."""
    OmegaConf.register_new_resolver(RESOLVER, require_cpu_platform, replace=True)
    OmegaConf.register_new_resolver(TRANSFER_RESOLVER, weight_transfer, replace=True)
    own_ray.register_resolvers()
