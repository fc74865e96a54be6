"""Makes every mistake of the table, and writes how soon and in which words it was noticed into ``docs/trouble.md``.

    python -m benchmarks.mistakes             # about three minutes on 2 cores
    python -m benchmarks.mistakes wandb       # those whose description has the word, to look at only

What Hydra refuses is tried in a process of its own; everything else in this one, which has imported verl already.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import verl  # noqa: F401  (it loads the plugin, which registers the presets)

from benchmarks.mistakes.table import COMMAND_LINE, MISTAKES, Mistake
from benchmarks.mistakes.trying import ROOT, try_apart, try_here

PAGE = ROOT / "docs" / "trouble.md"
BEGIN, END = "<!-- mistakes: written by python -m benchmarks.mistakes -->\n", "<!-- end of mistakes -->\n"
LONGEST = 96
"""Characters of a message in the table."""
GOOD = Mistake("none", "")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="", help="only mistakes with this word, and no page written")
    word = parser.parse_args().word
    logging.disable(logging.WARNING)
    rows, wrong = [], []
    for mistake in (each for each in MISTAKES if word in each.what):
        with tempfile.TemporaryDirectory() as folder:
            noticed = (try_apart if mistake in COMMAND_LINE else try_here)(mistake, Path(folder, "project"))
        if noticed.stops is mistake.warns or mistake.names not in noticed.line:
            wrong.append(mistake.what)
        rows.append((mistake.what, f"{noticed.seconds:.1f}", shortened(noticed.line)))
        print(f"{noticed.seconds:5.1f} s  {mistake.what}: {noticed.line}", flush=True)
    if wrong:
        sys.exit(f"not noticed, or not by name: {', '.join(wrong)}")
    if not word:
        write(table_of(rows), *whole_check())


def table_of(rows: Sequence[tuple[str, str, str]]) -> str:
    """The rows in Markdown, without padding."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (("mistake", "s", "what is said"), ("---",) * 3, *rows))


def shortened(line: str) -> str:
    """The beginning of a message, for a cell of the table."""
    cut = line if len(line) <= LONGEST else line[: LONGEST - 4] + " ..."
    return cut.replace("|", "\\|")


def whole_check() -> tuple[float, float]:
    """Seconds, and seconds of processor time, of ``python -m verl_atpo.check`` for a project without a mistake."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        used = try_apart(GOOD, Path(folder, "project")).seconds
        return time.monotonic() - began, used


def write(table: str, whole_s: float, cpu_s: float) -> None:
    """Put the table between its marks in the page."""
    before, rest = PAGE.read_text().split(BEGIN)
    said = (
        "Seconds are processor time of composing and checking the config; a quiet machine takes as long. The "
        f"whole command takes {cpu_s:.0f} s, mostly the import of verl ({whole_s:.0f} s on 2 cores at a load of "
        f"{os.getloadavg()[0]:.0f}). The first four rows, which Hydra refuses, show the whole command."
    )
    PAGE.write_text(f"{before}{BEGIN}\n{textwrap.fill(said, 150)}\n\n{table}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
