"""Makes everything the training needs: `python -m examples.python_sandbox.prepare --out DIR --seed 0`.

DIR then holds `train.parquet`, `val.parquet` and `model/` (weights, tokenizer and chat template in one Hugging Face
folder). What is there already is not made again.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

from transformers.utils import logging as transformers_logging

from examples.hopqa.prepare import run_stages
from examples.kit.model import build_model
from examples.kit.training import TrainSettings, demo_batches, train
from examples.python_sandbox.chat import PythonChat, build_tokenizer
from examples.python_sandbox.demos import make_demos
from examples.python_sandbox.problems import STEPS, sample_problems, write_rows

TRAIN_PER_STEP, VAL_PER_STEP = 400, 64
DEMOS = 14400


def say(text: str) -> None:
    """Progress for a person at the terminal."""
    print(f"[python] {text}", flush=True)


def write_data(out: Path, seed: int) -> None:
    """Writes training and validation problems, of which no two are the same."""
    rng = random.Random(f"problems-{seed}")
    problems = sample_problems(TRAIN_PER_STEP + VAL_PER_STEP, rng)
    held_out = [p for steps in STEPS for p in [p for p in problems if p.steps == steps][:VAL_PER_STEP]]
    write_rows([p for p in problems if p not in held_out], "train", out / "train.parquet")
    write_rows(held_out, "val", out / "val.parquet")
    say(f"{len(problems) - len(held_out)} training problems, {len(held_out)} validation problems")


def write_model(folder: Path, seed: int) -> None:
    """Builds the tokenizer and the model, warm-starts the model and writes both."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed)
    say(f"model: {model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary")
    demos = list(make_demos(PythonChat(tokenizer), DEMOS, seed))
    say(f"{len(demos)} demonstrations")
    settings = TrainSettings(drill_steps=0)
    rng = random.Random(f"warm-start-{seed}")
    batches = demo_batches(demos, settings.batch_size, tokenizer.pad_token_id, rng)
    steps = math.ceil(len(demos) / settings.batch_size)
    train(model, batches, steps, lambda line: say(f"warm start: {line}"), settings)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)  # the weights come last: their presence marks the model as done


def prepare(out: Path, seed: int) -> None:
    """Runs the stages whose files are missing."""
    stages = (
        ("data", out / "val.parquet", lambda: write_data(out, seed)),
        ("model", out / "model" / "model.safetensors", lambda: write_model(out / "model", seed)),
    )
    run_stages(out, f"seed {seed}", stages, say)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of data and model")
    args = parser.parse_args()
    transformers_logging.disable_progress_bar()
    prepare(args.out, args.seed)


if __name__ == "__main__":
    main()
