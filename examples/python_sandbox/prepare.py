"""Makes everything the training needs: `python -m examples.python_sandbox.prepare --out DIR --seed 0`.

DIR then holds `train.parquet`, `val.parquet` and `model/` (weights, tokenizer and chat template in one Hugging Face
folder). What is there already is not made again.
"""

from __future__ import annotations

import random
from pathlib import Path

from examples.kit.stages import Stage, parser, run_stages, say
from examples.python_sandbox.chat import PythonChat, build_tokenizer
from examples.python_sandbox.demos import make_demos
from examples.python_sandbox.problems import STEPS, sample_problems, write_rows
from verl_atpo.tiny.model import build_model, save
from verl_atpo.tiny.training import imitate

TRAIN_PER_STEP, VAL_PER_STEP = 400, 64
DEMOS = 14400


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
    imitate(model, demos, seed, lambda line: say(f"warm start: {line}"))
    save(model, tokenizer, folder)


def main() -> None:
    """Command line."""
    options = parser(__doc__).parse_args()
    out, seed = options.out, options.seed
    stages = (
        Stage("data", out / "val.parquet", lambda: write_data(out, seed)),
        Stage("model", out / "model" / "model.safetensors", lambda: write_model(out / "model", seed)),
    )
    run_stages(out, f"seed {seed}", stages)


if __name__ == "__main__":
    main()
