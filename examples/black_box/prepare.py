"""Data and a warm-started model: `python -m examples.black_box.prepare --out DIR --seed 0`.

DIR then holds `train.parquet`, `val.parquet` and `model/`. What is there already is not made again.
"""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd

from examples.black_box.chat import RepairChat, build_tokenizer
from examples.black_box.demos import make_demos
from examples.black_box.tasks import FAULTS, draw
from examples.kit.stages import Stage, parser, run_stages, say
from verl_atpo.tiny.model import build_model, save
from verl_atpo.tiny.training import TrainSettings, imitate

TRAIN_EACH, VAL_EACH = 400, 60
DEMOS = 9600
RATES = 0.012, 0.006
"""Learning rates of the warm start; the next one is tried where the model has not learned to copy."""
LEARNED = 0.24
"""Loss at the end below which it has, nats per token: the demonstrator's mistakes alone make 0.2."""


def write_data(out: Path, seed: int) -> None:
    """Write tasks for training and validation, as many of each number of faults."""
    for name, count in (("train", TRAIN_EACH), ("val", VAL_EACH)):
        rng = random.Random(f"{name}-{seed}")
        rows = [draw(rng, faults).row(index) for index in range(count) for faults in FAULTS]
        pd.DataFrame(rows).to_parquet(out / f"{name}.parquet")


def write_model(folder: Path, seed: int, demos: int) -> None:
    """Build the tokenizer and the model, warm-start the model and write both.

    Raises:
        RuntimeError: the model does not learn.
    """
    chat = RepairChat(build_tokenizer())
    shown = list(make_demos(chat, demos, seed))
    for rate in RATES:
        model = build_model(chat.tokenizer, seed)
        say(f"model: {model.num_parameters():,} parameters, {len(chat.tokenizer)} tokens in the vocabulary")
        loss = imitate(model, shown, seed, lambda line: say(f"warm start: {line}"), TrainSettings(learning_rate=rate))
        if loss < LEARNED:
            save(model, chat.tokenizer, folder)
            return
        say(f"the loss is {loss:.3f} nats/token with learning rate {rate}, above {LEARNED}")
    raise RuntimeError(
        f"The warm start of seed {seed} with {demos} demonstrations does not learn. Choose another SEED."
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    made = parser(__doc__)
    made.add_argument("--demos", type=int, default=DEMOS, help="demonstrations that the model imitates")
    options = made.parse_args(arguments)
    out, seed, demos = options.out, options.seed, options.demos
    stages = (
        Stage("data", out / "val.parquet", lambda: write_data(out, seed)),
        Stage("model", out / "model" / "model.safetensors", lambda: write_model(out / "model", seed, demos)),
    )
    run_stages(out, f"seed {seed}", stages)


if __name__ == "__main__":
    main()
