"""Two plans of attention over a tree, counted: FlexAttention's blocks and variable-length calls by nesting.

    python -m benchmarks.packed.levels [--seed 0] [--out FILE.json]

The second plan needs no compiler: one causal call over all stretches without a fork, then one call a nesting depth, in
which the rest of each subtree attends to the stretch that it continues from; the parts are joined by their log-sum-exp.
Counted by the package's own planner, for a forward pass of one layer with 32 heads of 128 in bfloat16; nothing runs.
`benchmarks.packed.kernels` times both on a device. Writes `benchmarks/results/packed_levels.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tabulate import tabulate

from tests.assets.attention_calls import counted, trie_of
from tests.assets.simulated_ranks import SHAPES

RESULT = Path(__file__).parents[1] / "results" / "packed_levels.json"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    rows = [{"rows of a prompt": name, **counted(trie_of(shape, options.seed))} for name, shape in SHAPES.items()]
    options.out.write_text(json.dumps({"settings": {"seed": options.seed}, "rows": rows}, indent=1) + "\n")
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3g"))


if __name__ == "__main__":
    main()
