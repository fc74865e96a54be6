"""Count of transfers between host and device in loss and estimator.

    python -m benchmarks.transfers [--device cuda] [--out FILE.json]

On a CUDA device the copies that its profiler saw, on a CPU the operations that would need one. Writes
``benchmarks/results/transfers_<device>.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from tests.assets.transfers import calls, transfers

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, help="JSON file for the counts")
    args = parser.parse_args()
    out = args.out or RESULTS / f"transfers_{args.device}.json"
    counts = {name: transfers(run, args.device) for name, run in calls(args.device).items()}
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    found = {"settings": {"torch": torch.__version__, "device": name}, "results": counts}
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
