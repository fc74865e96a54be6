"""What happens in the driver, before Ray starts: the config is checked, and a banner says what the run uses.

Hydra runs :class:`CheckConfig` before verl's ``main``. It is part of Hydra's own defaults once the plugin is loaded, so
it needs no preset; a config without anything of this package passes unseen.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from verl_atpo.config import ConfigError
from verl_atpo.seams.check import SeamMissing, require
from verl_atpo.seams.features import asked_for
from verl_atpo.startup.banner import banner, overridden
from verl_atpo.startup.checks import is_used, obey_rules
from verl_atpo.startup.order import obey_order
from verl_atpo.startup.rules.rule import Run, Stage

logger = logging.getLogger(__name__)

REHEARSAL_ENV = "VERL_ATPO_REHEARSAL"
"""Environment variable; ``off`` leaves the dress rehearsal out."""
CALLBACK = {"_target_": f"{__name__}.CheckConfig"}
LONGEST = 1000
"""Characters of a message."""


class CheckConfig(Callback):
    """Refuses a config that cannot work, in the driver, before Ray starts."""

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check verl's whole config, and say what the run uses.

        Raises:
            SystemExit: the message names setting, value and remedy. (Hydra only warns of a callback's ``Exception``, so
                whatever goes wrong here has to end the run in this way.)
        """
        if not is_used(config):
            return
        try:
            require(*asked_for(config))
            run = Run(config)
            obey_rules(run, Stage.CONFIG, logger.warning)
            for line in overridden(config):
                logger.warning(line)
            if rehearses(run):
                obey_rules(run, Stage.REHEARSAL, logger.warning)
            logger.info(banner(config, run.atpo))
        except (ConfigError, SeamMissing) as error:
            raise SystemExit(_cut(f"verl_atpo: {error}")) from error
        except Exception as error:
            raise SystemExit(_unforeseen(error)) from error


def rehearses(run: Run) -> bool:
    """Whether files, model, reward and tools can be looked at here.

    They cannot where the driver is a client of a distant Ray cluster (``ray://``), and are not where ``REHEARSAL_ENV``
    is ``off``.
    """
    address = str(run.get("ray_kwargs.ray_init.address") or os.environ.get("RAY_ADDRESS") or "")
    off = os.environ.get(REHEARSAL_ENV, "on").strip().lower() in ("off", "0", "false", "no")
    return not off and not address.startswith("ray://")


def _unforeseen(error: Exception) -> str:
    """OmegaConf's errors speak for themselves; of any other the place is of use, to a user and to us."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return _cut(
        f"verl_atpo: the config cannot be checked, so it cannot work: {type(error).__name__}: {text} "
        f"({place.filename}:{place.lineno}). Correct the setting; if there is nothing to correct, report this line."
    )


def _cut(message: str) -> str:
    return message if len(message) < LONGEST else message[: LONGEST - 4] + "..."


def check_every_config(callback: Mapping[str, str] = MappingProxyType(CALLBACK)) -> None:
    """Put the check into Hydra's defaults, and have it obey the order of the command line; may be called again.

    Args:
        callback: Hydra's description of the callback that gets every config.
    """
    obey_order()
    defaults: Any = ConfigStore.instance().repo["hydra"]["config.yaml"]
    OmegaConf.update(defaults.node, "callbacks.atpo", dict(callback), force_add=True)
