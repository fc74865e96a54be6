"""The run scripts of the examples, by their dry run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = {
    "hopqa": ROOT / "examples" / "quickstart.sh",
    **{task: ROOT / "examples" / task / "run.sh" for task in ("black_box", "python_sandbox", "smollm2", "text_world")},
}
"""Task -> its script, of those that share ``examples/kit/run.sh``."""


def main_ppo_arguments(task: str, *arguments: str, **variables: str) -> list[str]:
    """What a script would hand to ``main_ppo``; of the caller's environment only ``PATH`` is passed on."""
    environment = {"PATH": os.environ["PATH"], "DRY_RUN": "1", **variables}
    done = subprocess.run(
        ["bash", SCRIPTS[task], *arguments], env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


def settings_of(task: str) -> dict[str, str]:
    """Setting -> value of a script's defaults; the last one of a setting counts."""
    return dict(argument.partition("=")[::2] for argument in main_ppo_arguments(task))
