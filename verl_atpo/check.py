"""Check a run without starting it: ``python -m verl_atpo.check <the arguments of verl.trainer.main_ppo>``.

The rules of start-up are applied as ``main_ppo`` applies them before it starts Ray: those of the config, then those
of the dress rehearsal. Every broken rule is listed, not only the first. verl's own checks of the config follow.
The exit code is 0 if the run would start, else 1.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import hydra
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from verl_atpo.startup.banner import banner, overridden, replaced_presets
from verl_atpo.startup.driver import check_every_config, rehearses
from verl_atpo.startup.rules.rule import Run, Stage
from verl_atpo.startup.rules.table import broken_rules

CALLBACK = {"_target_": f"{__spec__.name if __spec__ else __name__}.ListProblems"}


class ListProblems(Callback):
    """Hydra callback that lists what is wrong with a config, and ends the process."""

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Print warnings and problems, a line each, then a verdict; exit with 0 or 1."""
        run = Run(config)
        found = list(findings(run))
        for is_warning, message in found:
            print(f"{'warning' if is_warning else 'PROBLEM'}: {message}")
        problems = sum(not is_warning for is_warning, _ in found)
        if not problems:
            print(banner(config, run.atpo))
        verdict = (
            f"would not start: {problems} {'problem' if problems == 1 else 'problems'}" if problems else "would start"
        )
        print(f"The run {verdict}." + ("" if rehearses(run) else " Its files were not checked."))
        sys.exit(int(problems > 0))


def findings(run: Run) -> Iterator[tuple[bool, str]]:
    """Yield each problem of a run: True for a warning, and the message."""
    reported = set[str]()
    blocked = False
    stages = (Stage.CONFIG, Stage.REHEARSAL) if rehearses(run) else (Stage.CONFIG,)
    for stage in stages:
        for rule, message in broken_rules(run, stage):
            blocked = blocked or not rule.warns
            if message not in reported:
                yield rule.warns, message
            reported.add(message)
    if blocked:
        return
    yield from ((True, f"{line}: one preset of a kind applies, the last") for line in replaced_presets(run.config))
    yield from ((True, line) for line in overridden(run.config))
    if (problem := verl_problem(run.config)) is not None:
        yield False, problem


def verl_problem(config: DictConfig) -> str | None:
    """Return the message of verl's own check of the config; None if it passes."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            validate_config(config, need_reference_policy(config), need_critic(config))
    except Exception as error:  # verl's checks are assertions
        return f"verl's own check: {type(error).__name__}: {error}"
    return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Compose the config of these arguments, list what is wrong with it, and exit."""
    import verl  # noqa: F401  (it loads the plugin, which registers the presets)

    check_every_config(CALLBACK)
    given = sys.argv[1:] if arguments is None else list(arguments)
    with tempfile.TemporaryDirectory(prefix="verl_atpo_check_") as folder:
        sys.argv = [sys.argv[0], *given, f"hydra.run.dir={folder}"]
        _compose()


@hydra.main(config_path="pkg://verl.trainer.config", config_name="ppo_trainer", version_base=None)
def _compose(config: DictConfig) -> None:
    """Do nothing: the callback has ended the process."""


if __name__ == "__main__":
    main()
