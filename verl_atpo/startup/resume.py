"""Resumed runs: the step from which a run continues, and the settings of its first start."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from verl_atpo.report.secrets import masked
from verl_atpo.settings import show
from verl_atpo.startup.verl_config import CHECKPOINTS, get

logger = logging.getLogger(__name__)

LATEST = "latest_checkpointed_iteration.txt"
SETTINGS = "begun_with.json"
"""File beside the checkpoints that holds the config of the first start."""
MAY_DIFFER = (
    "hydra",
    "ray_kwargs",
    "trainer.total_training_steps",
    "trainer.total_epochs",
    "trainer.logger",
    "trainer.val_before_train",
    "trainer.resume_",
    "trainer.save_freq",
    "trainer.test_freq",
    "trainer.project_name",
    "trainer.experiment_name",
    "algorithm.atpo.dump_",
    "algorithm.atpo.log_trees",
)
"""Prefixes of settings that may change between starts without a warning."""


def resumed_step(config: DictConfig) -> int | None:
    """Return the step after which verl continues; None if it starts at the first step."""
    mode = get(config, "trainer.resume_mode")
    if mode == "resume_path":
        named = str(get(config, "trainer.resume_from_path")).rstrip("/").rpartition("global_step_")[2]
        return int(named) if named.isdigit() else None
    folder = get(config, CHECKPOINTS)
    if mode != "auto" or not folder:
        return None
    try:
        step = int((Path(str(folder)) / LATEST).read_text().strip())
    except (OSError, ValueError):
        return None
    return step if (Path(str(folder)) / f"global_step_{step}").is_dir() else None


def saves_checkpoints(config: DictConfig) -> bool:
    """Return whether verl saves checkpoints, so that a stopped run can be resumed."""
    frequency = get(config, "trainer.save_freq")
    return isinstance(frequency, int) and frequency > 0


def checkpoint_folder(config: DictConfig) -> Path | None:
    """Return the folder of the checkpoints; None if none are saved, or not on this machine's file system."""
    folder = get(config, CHECKPOINTS)
    if not folder or "://" in str(folder) or not saves_checkpoints(config):
        return None
    return Path(str(folder))


def total_steps(config: DictConfig) -> int | None:
    """Return the number of training steps of the run; None before the trainer has computed it from its data."""
    own = get(config, "trainer.total_training_steps")
    if isinstance(own, int):
        return own
    found = get(config, "actor_rollout_ref.actor.optim.total_training_steps")
    if not isinstance(found, int) or found <= 0:
        return None
    updates = 1
    if (mode := get(config, "trainer.v1.trainer_mode")) is not None:
        updates = get(config, f"trainer.v1.{mode}.parameter_sync_step") or 1
    return int(found // updates)


def remember_settings(config: DictConfig) -> None:
    """Write the settings of a run's first start into the folder of its checkpoints."""
    folder = checkpoint_folder(config)
    if folder is None:
        return
    file = folder / SETTINGS
    if resumed_step(config) is not None and file.exists():
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(flat(config), indent=1, default=str))
    except (OSError, OmegaConfBaseException) as error:
        logger.warning("The settings of this run cannot be written to %s: %s", file, error)


def changed_settings(config: DictConfig) -> Iterator[str]:
    """Yield a text for each setting that differs from the run's first start."""
    try:
        begun = json.loads((Path(str(get(config, CHECKPOINTS))) / SETTINGS).read_text())
    except (OSError, ValueError):
        return
    if not isinstance(begun, dict):
        return
    now = json.loads(json.dumps(flat(config), default=str))
    for key in sorted({*begun, *now}):
        if begun.get(key) != now.get(key) and not key.startswith(MAY_DIFFER):
            yield f"{key}={show(now.get(key))}, it was {show(begun.get(key))}"


def flat(config: DictConfig) -> dict[str, Any]:
    """Return all settings by dotted name, without Hydra's own and without secrets."""
    own = config.copy()
    with open_dict(own):
        own.pop("hydra", None)
    content = OmegaConf.to_container(own, resolve=True)
    return dict(_dotted(content)) if isinstance(content, Mapping) else {}


def _dotted(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", masked({name: value})[name]
