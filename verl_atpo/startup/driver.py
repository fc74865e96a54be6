"""Hydra callback of the driver: before Ray starts it checks the config and prints a banner.

Hydra runs :class:`CheckConfig` before verl's ``main``. It is part of Hydra's own defaults once the plugin is loaded, so
it needs no preset. A config that uses no part of this package is not checked.
"""

from __future__ import annotations

import functools
import logging
import os
import pprint
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from verl_atpo.config import ConfigError
from verl_atpo.report.run_file import this_start
from verl_atpo.report.secrets import masked
from verl_atpo.seams.check import SeamMissing, require
from verl_atpo.seams.features import asked_for
from verl_atpo.settings import refuse
from verl_atpo.startup.banner import banner, overridden
from verl_atpo.startup.checks import apply_rules, is_used
from verl_atpo.startup.driver_end import DriverEnd, running_beside
from verl_atpo.startup.opening import resume_warnings
from verl_atpo.startup.order import obey_order
from verl_atpo.startup.resume import changed_settings, remember_settings, resumed_step, total_steps
from verl_atpo.startup.rules.rule import Run, Stage
from verl_atpo.startup.verl_config import CHECKPOINTS, get

logger = logging.getLogger(__name__)

REHEARSAL_ENV = "VERL_ATPO_REHEARSAL"
"""Environment variable; ``off`` skips the dress rehearsal."""
ENTRY = "verl.trainer.main_ppo"
CALLBACK = {"_target_": f"{__name__}.CheckConfig"}
LONGEST = 1000
"""Maximum number of characters of a message."""


class CheckConfig(Callback):
    """Hydra callback that refuses a config that cannot work, before Ray starts, and records how the run ends."""

    def __init__(self) -> None:
        self._end: DriverEnd | None = None

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check verl's whole config, and print the banner.

        Raises:
            SystemExit: the message names setting, value and remedy. (Hydra only warns of a callback's ``Exception``, so
                any error here has to end the run in this way.)
        """
        if not is_used(config):
            return
        try:
            require(*asked_for(config))
            run = Run(config)
            apply_rules(run, Stage.CONFIG, logger.warning)
            for line in overridden(config):
                logger.warning(line)
            if rehearses(run):
                apply_rules(run, Stage.REHEARSAL, logger.warning)
            if (problem := running_beside(config)) is not None:
                raise refuse(CHECKPOINTS, get(config, CHECKPOINTS), problem)
            logger.info(banner(config, run.atpo))
            self._begin(config, run)
        except (ConfigError, SeamMissing) as error:
            raise SystemExit(_cut(f"verl_atpo: {error}")) from error
        except KeyboardInterrupt:
            raise SystemExit("verl_atpo: stopped by Ctrl+C before Ray started.") from None
        except Exception as error:
            raise SystemExit(_unexpected(error)) from error

    def _begin(self, config: DictConfig, run: Run) -> None:
        """Log the step from which a resumed run continues, and record that the run is running."""
        for line in resume_warnings(config, changed_settings(config)):
            logger.warning(line)
        remember_settings(config)
        folder = get(config, "hydra.runtime.output_dir")
        if folder is None:  # composed, not run
            return
        _keep_config_out_of_the_log(Path(folder) / "verl_config.txt")
        start = this_start(sys.argv, total_steps(config), resumed_step(config), run.atpo.dump_dir)
        self._end = DriverEnd(config, start, Path(folder))
        self._end.watch()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Record how the run ended."""
        if self._end is not None:
            failed = job_return.status is JobStatus.FAILED
            error = job_return._return_value
            self._end.ended(f"failed: {type(error).__name__}" if failed else "completed")


def write_config(file: Path, content: Any) -> None:
    """Replace ``pprint`` in verl's task runner: the whole config is written to a file, not to the log, without secrets.

    Args:
        file: path of the config file.
        content: the object to print.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(pprint.pformat(masked(content)))
        print(f"the whole config: {file}")
    except OSError:
        pprint.pprint(masked(content))


def _keep_config_out_of_the_log(file: Path) -> None:
    """Make verl's task runner, which is passed to Ray by value, write its config into a file."""
    main = sys.modules.get("__main__")
    if getattr(getattr(main, "__spec__", None), "name", None) == ENTRY and hasattr(main, "pprint"):
        main.pprint = functools.partial(write_config, file)  # type: ignore[union-attr]


def rehearses(run: Run) -> bool:
    """Return whether files, model, reward and tools can be checked on this machine.

    They cannot if the driver is a client of a remote Ray cluster (``ray://``), and are not if ``REHEARSAL_ENV`` is
    ``off``.
    """
    address = str(run.get("ray_kwargs.ray_init.address") or os.environ.get("RAY_ADDRESS") or "")
    off = os.environ.get(REHEARSAL_ENV, "on").strip().lower() in ("off", "0", "false", "no")
    return not off and not address.startswith("ray://")


def _unexpected(error: Exception) -> str:
    """Describe an unexpected error: OmegaConf's by its message, any other also by its place in the code."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return _cut(
        f"verl_atpo: the config cannot be checked, so it cannot work: {type(error).__name__}: {text} "
        f"({place.filename}:{place.lineno}). Correct the setting; if there is nothing to correct, report this line."
    )


def _cut(message: str) -> str:
    return message if len(message) < LONGEST else message[: LONGEST - 4] + "..."


def check_every_config(callback: Mapping[str, str] = MappingProxyType(CALLBACK)) -> None:
    """Add the check to Hydra's defaults and make it respect the command line's order; may be called again.

    Args:
        callback: Hydra's description of the callback that gets every config.
    """
    obey_order()
    defaults: Any = ConfigStore.instance().repo["hydra"]["config.yaml"]
    OmegaConf.update(defaults.node, "callbacks.atpo", dict(callback), force_add=True)
