"""Result of a run of `examples/smollm2/run.sh`: `python -m benchmarks.smollm2 OUT`.

At its end or while it runs: writes `benchmarks/results/smollm2.json` and, into `docs/results/`, the run's trees and
learning curve.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from tabulate import tabulate

from benchmarks.learning.results import record, write
from examples.kit.summary import read_run
from examples.smollm2.report import report

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "smollm2.json"
PAGES = ROOT / "docs" / "results"
_STEPS_PER_ROW = 5
_COLUMNS = {
    "mean reward": "reward",
    "turns per trajectory": "turns_per_row",
    "prompts without signal": "equal_rewards_share",
    "sampled tokens a step": "sampled_tokens",
    "gradient norm": "gradient_norm",
    "seconds a step": "seconds",
}


def keep(run: Path, result: Path = RESULT, pages: Path = PAGES) -> None:
    """Write the result file, and copy the trees and the curve that :func:`examples.smollm2.report.report` makes.

    Args:
        run: OUT of `run.sh`.
        result: the file to write, in the form of the learning comparison's.
        pages: where to copy trees and curve.

    Raises:
        FileNotFoundError: no step has been trained yet.
    """
    report(run)
    overrides = yaml.safe_load((run / "hydra" / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
    named = [override.replace(str(run.resolve()), "OUT") for override in overrides]
    seed = next(int(override.partition("=")[2]) for override in overrides if override.startswith("data.seed="))
    content = record("smollm2", seed, named, read_run(run), 0.0)
    content["seconds"] = round(sum(content["steps"]["seconds"]), 1)
    write(content, result)
    pages.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / "trees.md", pages / "smollm2_trees.md")
    shutil.copyfile(run / "learning_curve.png", pages / "smollm2.png")


def tables(result: Path = RESULT) -> str:
    """Markdown: means over every five steps of training, and the validations.

    Args:
        result: file that :func:`keep` wrote.
    """
    content = json.loads(result.read_text(encoding="utf-8"))
    starts = range(0, len(content["steps"]["reward"]), _STEPS_PER_ROW)
    trained = [_row(content["steps"], start) for start in starts]
    validated = [
        {"after step": found["step"], **{source: f"{share:.0%}" for source, share in sorted(found["accuracy"].items())}}
        for found in content["validation"]
    ]
    tests = tabulate(validated, headers="keys", tablefmt="github")
    return f"{tabulate(trained, headers='keys', tablefmt='github', floatfmt='.3g')}\n\nValidation accuracy:\n\n{tests}"


def _row(steps: dict[str, list[float]], start: int) -> dict[str, Any]:
    end = min(start + _STEPS_PER_ROW, len(steps["reward"]))
    return {"steps": f"{start + 1} to {end}"} | {
        title: fmean(steps[name][start:end]) for title, name in _COLUMNS.items()
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smollm2", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="OUT of run.sh")
    keep(parser.parse_args().run)


if __name__ == "__main__":
    main()
