"""A command that a benchmark runs, with its output in a log."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""For tiny models, whose processes share the cores."""


async def call(command: Sequence[str], log: Path, variables: Mapping[str, str]) -> None:
    """Run a command from the repository's root to its end; cancelled, it is stopped first.

    Args:
        command: program and arguments.
        log: what it prints; overwritten.
        variables: of its environment, beside those of this process.

    Raises:
        RuntimeError: it returned another code than 0; the message names its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **variables}
    with log.open("w") as output:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        process.terminate()
        await process.wait()
        raise
    if code:
        raise RuntimeError(f"{' '.join(command[1:4])} ... ended with code {code}, see {log}")
