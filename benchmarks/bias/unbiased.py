"""Bias of trees against an exact gradient: `python -m benchmarks.bias.unbiased --seed 0`, two minutes.

Writes `benchmarks/results/bias.json`, from which `python -m benchmarks.report` fills `docs/unbiased.md`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tests.assets.tabular_agent import exact
from tests.assets.tabular_estimates import ARMS, measure

RESULT = Path(__file__).parents[1] / "results" / "bias.json"


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
