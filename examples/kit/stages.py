"""The stages of a task's `prepare`: what is there already is not made again, and a folder keeps to its settings."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging as transformers_logging


@dataclass(frozen=True)
class Stage:
    """One thing to make.

    Attributes:
        name: what people read.
        last_file: its presence says that the stage is done.
        run: makes it.
    """

    name: str
    last_file: Path
    run: Callable[[], None]


def say(text: str) -> None:
    """Progress for a person at the terminal."""
    print(f"   {text}", flush=True)


def parser(module_doc: str | None) -> argparse.ArgumentParser:
    """The command line of a `prepare`: its folder and its seed."""
    made = argparse.ArgumentParser(description=(module_doc or "").splitlines()[0])
    made.add_argument("--out", type=Path, required=True, help="folder to write")
    made.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn")
    return made


def run_stages(out: Path, settings: str, stages: Sequence[Stage]) -> None:
    """Runs the stages whose last file is missing.

    Args:
        out: folder to write.
        settings: what the files depend on.
        stages: in order.

    Raises:
        ValueError: the folder was made with other settings.
    """
    transformers_logging.disable_progress_bar()
    out.mkdir(parents=True, exist_ok=True)
    _check_settings(out / "settings", settings)
    for stage in stages:
        if stage.last_file.exists():
            say(f"{stage.name}: already there")
            continue
        started = time.monotonic()
        stage.run()
        say(f"{stage.name}: done in {time.monotonic() - started:.0f} s")


def _check_settings(file: Path, settings: str) -> None:
    if file.exists() and (found := file.read_text(encoding="utf-8").strip()) != settings:
        raise ValueError(f"got {settings}, but {file.parent} was made with {found}; choose another --out")
    file.write_text(f"{settings}\n", encoding="utf-8")
