"""Table of finished runs: `python -m examples.black_box.results outputs/black_box_*_seed*`.

It prints the share of new repositories whose checks pass before and after training; `--readme` writes it into the
README in this folder.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.kit.summary import read_run
from verl_atpo.report.metrics_file import Steps, accuracies

README = Path(__file__).with_name("README.md")
FAULTS = {"one fault": "black_box_1", "two faults": "black_box_2"}
"""Column of the table -> data source."""
_RUN = re.compile(r"black_box_(?P<agent>\w+)_seed(?P<seed>\d+)")
_BLOCK = re.compile(r"(<!-- begin results -->\n).*(<!-- end results -->)", re.DOTALL)


def row(agent: str, seed: int, steps: Steps) -> dict[str, Any]:
    """Return the row of a run: both kinds of repositories, before and after training.

    Args:
        agent: name of the agent's module.
        seed: of the run.
        steps: metrics of its steps.

    Raises:
        ValueError: the run has not been validated at its end.
    """
    last = max(step for step, data in steps if "critic/score/mean" in data)
    found = {step: accuracies(data) for step, data in steps}
    if not found.get(0) or not found[last]:
        raise ValueError(f"{agent}, seed {seed}: no validation at step 0 and step {last}. Let the run end.")
    cells: dict[str, Any] = {"agent": agent, "seed": seed, "steps": last}
    for name, source in FAULTS.items():
        cells[f"{name}, before"], cells[f"{name}, after"] = found[0][source], found[last][source]
    return cells


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Format rows as a table of Markdown, with a row of means if there are several."""
    names = list(rows[0])
    shares = [name for name in names if isinstance(rows[0][name], float)]
    means = {name: sum(each[name] for each in rows) / len(rows) for name in shares}
    every = [*rows, {"agent": "mean", "seed": "", "steps": "", **means}] if len(rows) > 1 else rows
    cells = [
        [f"{each[name]:.0%}".replace("%", " %") if name in shares else str(each[name]) for name in names]
        for each in every
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [names, ["---"] * len(names), *cells]) + "\n"


def read_rows(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Read the rows of runs whose folders have the names that the run script gives them, in order.

    Raises:
        ValueError: a folder of another name, or a run that has not ended.
    """
    rows = []
    for folder in folders:
        named = _RUN.fullmatch(folder.name)
        if named is None:
            raise ValueError(f"{folder}: expected black_box_AGENT_seedN, the OUT of the run script.")
        rows.append(row(named["agent"], int(named["seed"]), read_run(folder)))
    return sorted(rows, key=lambda each: (each["agent"], each["seed"]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="OUT of each run")
    parser.add_argument("--readme", action="store_true", help="write the table into the README")
    options = parser.parse_args()
    found = table(read_rows(options.folders))
    print(found, end="")
    if options.readme:
        README.write_text(
            _BLOCK.sub(lambda match: match[1] + found + match[2], README.read_text(encoding="utf-8")), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
