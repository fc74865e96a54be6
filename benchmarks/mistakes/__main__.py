"""Makes every mistake of the table, and writes how soon and in which words it was noticed into ``docs/trouble.md``.

python -m benchmarks.mistakes             # a process of its own for each, about a quarter of an hour on 2 cores
python -m benchmarks.mistakes wandb       # those whose description has the word, to look at only
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from benchmarks.mistakes.project import make
from benchmarks.mistakes.table import MISTAKES, Mistake

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "trouble.md"
BEGIN, END = "<!-- mistakes: written by python -m benchmarks.mistakes -->\n", "<!-- end of mistakes -->\n"
LONGEST = 220
"""Characters of a message in the table."""


@dataclass(frozen=True)
class Noticed:
    """How a mistake was noticed.

    Attributes:
        code: exit code of ``python -m verl_atpo.check``.
        seconds: from its start to its end.
        line: what it said last, or the warning.
    """

    code: int
    seconds: float
    line: str


def command(mistake: Mistake, folder: Path, arguments: list[str]) -> list[str]:
    """Arguments of ``main_ppo`` with a mistake in them."""
    kept = [each for each in arguments if not (mistake.without and each.startswith(mistake.without))]
    return [*kept, *(each.replace("{folder}", str(folder)) for each in mistake.arguments)]


def try_out(mistake: Mistake, folder: Path) -> Noticed:
    """Make a mistake in a fresh project and check it, in a process of its own."""
    arguments = command(mistake, folder, make(folder))
    mistake.change(folder)
    path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "VERL_PLATFORM": "cpu", **mistake.environment}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "verl_atpo.check", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        cwd=folder,
    )
    seconds = time.monotonic() - started
    return Noticed(done.returncode, seconds, _said(done.stdout, done.stderr, mistake).replace(f"{folder}/", ""))


def _said(out: str, err: str, mistake: Mistake) -> str:
    marks = ("warning: ",) if mistake.warns else ("PROBLEM: ",)
    lines = [line.partition(": ")[2] for line in out.splitlines() if line.startswith(marks)]
    told = [line for line in err.splitlines() if mistake.names in line]
    return (lines or told or [*err.splitlines(), *out.splitlines(), ""])[0].strip()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="", help="only mistakes with this word, and no page written")
    word = parser.parse_args().word
    rows, wrong = [], []
    for mistake in MISTAKES:
        if word not in mistake.what:
            continue
        with tempfile.TemporaryDirectory() as folder:
            noticed = try_out(mistake, Path(folder, "project"))
        if (noticed.code == 0) is not mistake.warns or mistake.names not in noticed.line:
            wrong.append(mistake.what)
        rows.append((mistake.what, f"{noticed.seconds:.0f}", noticed.line[:LONGEST].replace("|", "\\|")))
        print(f"{noticed.seconds:5.1f} s  {mistake.what}: {noticed.line}", flush=True)
    if wrong:
        sys.exit(f"not noticed, or not by name: {', '.join(wrong)}")
    if not word:
        write(tabulate(rows, headers=("mistake", "seconds", "what is said"), tablefmt="github"))


def write(table: str) -> None:
    """Put the table between its marks in the page."""
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
