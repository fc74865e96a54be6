"""Bias of trees against an exact gradient: `python -m benchmarks.bias.unbiased --seed 0`, two minutes.

Writes `benchmarks/results/bias.json`, from which `python -m benchmarks.report` fills `docs/unbiased.md`.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bias.agent import exact
from benchmarks.bias.estimates import ARMS, sample

RESULT = Path(__file__).parents[1] / "results" / "bias.json"


def measure(arm: str, trees: int, seed: int) -> dict[str, Any]:
    """Average the estimates of an arm's trees.

    Returns:
        ``value`` and its standard ``error``; ``cosine`` of the mean gradient with the exact one; ``scale``, the mean
        gradient's projection on the exact one over its length; ``worst``, the largest deviation of a component in
        standard errors; ``noise``, the total variance of one tree's gradient over the square of that projection, so
        that an estimate twice as long is not the noisier for it.
    """
    expansion, estimate = ARMS[arm]
    rng = random.Random(f"{arm} {seed}")
    values, gradients = zip(*(estimate(sample(expansion, rng)) for _ in range(trees)), strict=True)
    _, truth = exact()
    estimates = np.array(gradients)
    mean, error = estimates.mean(axis=0), estimates.std(axis=0, ddof=1) / trees**0.5
    along = mean @ truth / np.linalg.norm(truth)
    return {
        "arm": arm,
        "value": float(np.mean(values)),
        "error": float(np.std(values, ddof=1) / trees**0.5),
        "cosine": float(along / np.linalg.norm(mean)),
        "scale": float(along / np.linalg.norm(truth)),
        "worst": float(np.max(np.abs(mean - truth) / error)),
        "noise": float(estimates.var(axis=0, ddof=1).sum() / along**2),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bias.unbiased", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trees", type=int, default=20000, help="an arm")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    value, _ = exact()
    print(f"exact value {value:.4f}, {options.trees} trees an arm")
    rows = []
    for arm in ARMS:
        rows.append(measure(arm, options.trees, options.seed))
        print("  ".join(f"{each:.4f}" if isinstance(each, float) else f"{each:38}" for each in rows[-1].values()))
    content = {"seed": options.seed, "trees": options.trees, "value": value, "rows": rows}
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
