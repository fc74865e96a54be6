"""Makes everything the training needs: `python -m examples.smollm2.prepare --out DIR --seed 0`.

DIR then holds `train.parquet`, `val.parquet` and `model/` (weights, tokenizer and chat template in one Hugging Face
folder). What is there already is not made again.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

from transformers.utils import logging as transformers_logging

from examples.hopqa.prepare import run_stages
from examples.smollm2.model import write_model
from examples.smollm2.problems import STEPS, TRAINED_STEPS, stream, write_rows

TRAIN_PER_STEP, VAL_PER_STEP = 1000, 32


def say(text: str) -> None:
    """Progress for a person at the terminal."""
    print(f"[smollm2] {text}", flush=True)


def write_data(out: Path, seed: int) -> None:
    """Writes training and validation problems, of which no two are the same."""
    held_out = list(islice(stream(f"smollm2-val-{seed}", STEPS), len(STEPS) * VAL_PER_STEP))
    fresh = (p for p in stream(f"smollm2-train-{seed}", TRAINED_STEPS) if p not in held_out)
    train = list(islice(fresh, len(TRAINED_STEPS) * TRAIN_PER_STEP))
    write_rows(train, "train", out / "train.parquet")
    write_rows(held_out, "val", out / "val.parquet")
    say(f"{len(train)} training problems, {len(held_out)} validation problems")


def prepare(out: Path, seed: int) -> None:
    """Runs the stages whose files are missing."""

    def make_model() -> None:
        say(f"model: {write_model(out / 'model').num_parameters():,} parameters")

    stages = (
        ("data", out / "val.parquet", lambda: write_data(out, seed)),
        ("model", out / "model" / "model.safetensors", make_model),
    )
    run_stages(out, f"seed {seed}", stages, say)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the problems")
    args = parser.parse_args()
    transformers_logging.disable_progress_bar()
    prepare(args.out, args.seed)


if __name__ == "__main__":
    main()
