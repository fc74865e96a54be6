"""Makes everything the training needs: `python -m examples.smollm2.prepare --out DIR --seed 0`.

DIR then holds `train.parquet`, `val.parquet` and `model/` (weights, tokenizer and chat template in one Hugging Face
folder). What is there already is not made again.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from examples.kit.stages import Stage, parser, run_stages, say
from examples.smollm2.model import write_model
from examples.smollm2.problems import STEPS, TRAINED_STEPS, stream, write_rows

TRAIN_PER_STEP, VAL_PER_STEP = 1000, 32


def write_data(out: Path, seed: int) -> None:
    """Writes training and validation problems, of which no two are the same."""
    held_out = list(islice(stream(f"smollm2-val-{seed}", STEPS), len(STEPS) * VAL_PER_STEP))
    fresh = (p for p in stream(f"smollm2-train-{seed}", TRAINED_STEPS) if p not in held_out)
    train = list(islice(fresh, len(TRAINED_STEPS) * TRAIN_PER_STEP))
    write_rows(train, "train", out / "train.parquet")
    write_rows(held_out, "val", out / "val.parquet")
    say(f"{len(train)} training problems, {len(held_out)} validation problems")


def main() -> None:
    """Command line."""
    options = parser(__doc__).parse_args()
    out, seed = options.out, options.seed

    def make_model() -> None:
        say(f"model: {write_model(out / 'model').num_parameters():,} parameters")

    stages = (
        Stage("data", out / "val.parquet", lambda: write_data(out, seed)),
        Stage("model", out / "model" / "model.safetensors", make_model),
    )
    run_stages(out, f"seed {seed}", stages)


if __name__ == "__main__":
    main()
