"""The Hydra preset that turns any verl recipe into a CPU run: ``VERL_PLATFORM=cpu ... main_ppo +platform=cpu ...``.

Plain data, to be stored in Hydra's ConfigStore with package ``_global_``. A preset cannot set the environment of the
process that reads it, so ``trainer.device`` is an interpolation: verl's ``main_ppo`` reads it first of all, and
:func:`require_cpu_platform` then refuses a run that was started without ``VERL_PLATFORM=cpu``, naming the remedy.
"""

import os
from typing import Any

from verl_atpo.platforms import PLATFORM_ENV, PLATFORM_NAME, cpu_platform_requested

RESOLVER = "verl_atpo.cpu_device"

# Logical: Ray's bookkeeping only. verl's placement group asks for 3 for each device, and about 10 helper actors for 1 each.
LOGICAL_CPUS = 32

CPU_PRESET: dict[str, Any] = {
    "trainer": {
        "device": f"${{{RESOLVER}:}}",
        "n_gpus_per_node": 1,
        "nnodes": 1,
    },
    "ray_kwargs": {
        "ray_init": {
            "num_cpus": LOGICAL_CPUS,
            # Logical too: as many as the recipe trains on.
            "num_gpus": "${trainer.n_gpus_per_node}",
            "include_dashboard": False,
            # Reaches every worker, also those of other nodes, which do not inherit the driver's environment.
            "runtime_env": {"env_vars": {PLATFORM_ENV: PLATFORM_NAME}},
        },
    },
    # The default of 8 storage actors never all come up on 2 cores.
    "transfer_queue": {"backend": {"SimpleStorage": {"num_data_storage_units": 1}}},
    "data": {"dataloader_num_workers": 0},
    "reward": {"num_workers": 1},
    "critic": {"strategy": "fsdp2", "model": {"use_remove_padding": False}},
    "actor_rollout_ref": {
        "model": {
            "use_remove_padding": False,
            "override_config": {"attn_implementation": "sdpa"},
        },
        "actor": {"strategy": "fsdp2", "use_torch_compile": False},
        "rollout": {
            "name": "vllm",
            "tensor_model_parallel_size": 1,
            "enforce_eager": True,
            "free_cache_engine": False,
            "enable_sleep_mode": False,
            "checkpoint_engine": {"update_weights_bucket_megabytes": 128},
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
                    "name": "QuickReplayBuffer",
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
    """Return ``cpu`` for ``trainer.device``, if this process runs on the CPU platform.

    Raises:
        RuntimeError: the preset ``platform=cpu`` was chosen without ``VERL_PLATFORM=cpu`` in the environment.
    """
    if not cpu_platform_requested():
        got = os.environ.get(PLATFORM_ENV)
        raise RuntimeError(
            f"the preset platform=cpu needs the environment variable {PLATFORM_ENV}={PLATFORM_NAME}, got "
            f"{'it unset' if got is None else repr(got)}; start the run with "
            f"`{PLATFORM_ENV}={PLATFORM_NAME} python -m verl.trainer.main_ppo +platform=cpu ...`, or leave the preset out"
        )
    return PLATFORM_NAME


def register_resolver() -> None:
    """Register the interpolation that ``CPU_PRESET`` uses with OmegaConf; calling it again changes nothing."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver(RESOLVER, require_cpu_platform, replace=True)
