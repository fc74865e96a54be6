"""Entry point of the group ``verl.plugins``: importing this module registers verl_atpo with verl.

verl imports it at the end of ``import verl``, in the driver and in every Ray worker. It registers the advantage
estimator ``atpo``, the policy loss ``atpo``, Hydra's preset group ``atpo`` and, where ``VERL_PLATFORM=cpu`` asks for
it, the CPU platform. verl hides an exception raised here, so a failure is logged as an error first.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, register_adv_est, register_policy_loss

from verl_atpo.config import ConfigError
from verl_atpo.method.estimator import compute_atpo_advantage
from verl_atpo.method.loss import compute_policy_loss_atpo
from verl_atpo.platforms import activate_if_requested
from verl_atpo.startup.checks import check_config
from verl_atpo.startup.presets import register_presets

logger = logging.getLogger("verl_atpo")

NAME = "atpo"


class CheckConfig(Callback):
    """Hydra callback of the presets: refuses a config that cannot work, in the driver, before Ray starts."""

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check verl's whole config.

        Raises:
            SystemExit: the message names setting, value and remedy. (Hydra only warns of a callback's ``Exception``.)
        """
        try:
            check_config(config)
        except (ConfigError, OmegaConfBaseException) as error:
            raise SystemExit(f"verl_atpo: {error}") from error


def register() -> None:
    """Register estimator, loss, presets and, where it was asked for, the CPU platform; may be called again.

    Raises:
        RuntimeError: a verl that this version is not made for, or a name that somebody else took.
    """
    _check_verl_version()
    register_adv_est(NAME)(compute_atpo_advantage)
    # verl's register_policy_loss overwrites without a word.
    if POLICY_LOSS_REGISTRY.get(NAME, compute_policy_loss_atpo) is not compute_policy_loss_atpo:
        raise RuntimeError(f"policy loss {NAME!r} is registered already, to {POLICY_LOSS_REGISTRY[NAME]}.")
    register_policy_loss(NAME)(compute_policy_loss_atpo)
    register_presets()
    activate_if_requested()


def _check_verl_version() -> None:
    tested = json.loads(Path(__file__).with_name("tested_versions.json").read_text())["verl"]
    found = importlib.metadata.version("verl")
    if found != tested:
        raise RuntimeError(
            f"verl {found} is installed, but this verl_atpo is made for verl {tested}, and verl's seams move between "
            f"versions: pip install verl=={tested}, or a verl_atpo made for verl {found}."
        )


try:
    register()
except Exception:
    logger.exception("verl_atpo could not be registered with verl; adv_estimator=atpo and +atpo=... will be unknown")
    raise
