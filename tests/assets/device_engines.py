"""verl's FSDP2 engine and the packed one on one device: what they say of the same rows.

    VERL_PLATFORM=cpu python -m tests.assets.device_engines FOLDER cpu verl-fp32 packed-fp32 packed-bf16
    python -m tests.assets.device_engines FOLDER cuda packed-fp32 packed-bf16

A program of its own, since a process has one platform. Writes ``FOLDER/<device>-<engine>-<precision>.pt``: the results
by case.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tests.assets.engine_cases import Case, engine_of, results, write_two_layers
from tests.assets.packed_rows import random_trees

CASES = (Case(seed=0), Case("vanilla", "token-mean", seed=24, entropy=0.1, kl=True))


def main(folder: Path, device: str, wanted: list[str]) -> None:
    """All wanted engines, one after the other."""
    torch.set_num_threads(1)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/{device}", rank=0, world_size=1)
    if not (folder / "model").exists():
        write_two_layers(folder / "model")
    for each in wanted:
        name, dtype = each.split("-")
        found = {}
        for case in CASES:
            rows = random_trees(case.seed, case.groups)
            everything = [list(range(len(rows.uids)))]
            found[case.name] = results(engine_of(name, folder / "model", case, dtype), rows, everything, case)
        torch.save(found, folder / f"{device}-{each}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
