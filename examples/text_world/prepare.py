"""Makes everything the example needs: `python -m examples.text_world.prepare --out DIR --seed 0`.

DIR then holds `train.parquet`, `val.parquet`, `model/` (weights, tokenizer and chat template in one Hugging Face
folder) and `warm_start.json` (success before reinforcement learning). A stage whose files are there is skipped.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from transformers import Qwen3ForCausalLM

from examples.kit.stages import Stage, parser, run_stages, say
from examples.text_world.chat import WorldChat, build_tokenizer
from examples.text_world.demos import make_demos
from examples.text_world.games import draw_games, read_games, write_rows
from examples.text_world.sampler import measure
from verl_atpo.tiny.model import build_model, save
from verl_atpo.tiny.training import imitate

TRAIN_PER_LEVEL, VAL_PER_LEVEL = 500, 64
DEMOS = 14400


def write_data(out: Path, seed: int) -> None:
    """Writes the games; no validation game is played in training or in a demonstration."""
    rng = random.Random(f"games-{seed}")
    held_out = draw_games(VAL_PER_LEVEL, rng)
    games = draw_games(TRAIN_PER_LEVEL, rng, frozenset(game.to_json() for game in held_out))
    write_rows(games, "train", out / "train.parquet")
    write_rows(held_out, "val", out / "val.parquet")
    say(f"{len(games)} training games, {len(held_out)} validation games")


def write_model(out: Path, seed: int) -> None:
    """Builds the tokenizer and the model, warm-starts the model and writes both."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed)
    say(f"model: {model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary")
    held_out = frozenset(game.to_json() for game in read_games(out / "val.parquet"))
    demos = make_demos(WorldChat(tokenizer), DEMOS, held_out, seed)
    say(f"{len(demos)} demonstrations")
    imitate(model, demos, seed, lambda line: say(f"warm start: {line}"))
    save(model, tokenizer, out / "model")


def write_success(out: Path) -> None:
    """Measures the warm-started model on the validation games and writes the figures."""
    model = Qwen3ForCausalLM.from_pretrained(out / "model").eval()
    figures = measure(model, WorldChat(build_tokenizer()), read_games(out / "val.parquet"), temperature=1.0)
    say("validation before training, sampled: " + "  ".join(f"{name} {share:.1%}" for name, share in figures.items()))
    (out / "warm_start.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    options = parser(__doc__).parse_args()
    out, seed = options.out, options.seed
    stages = (
        Stage("data", out / "val.parquet", lambda: write_data(out, seed)),
        Stage("model", out / "model" / "model.safetensors", lambda: write_model(out, seed)),
        Stage("success", out / "warm_start.json", lambda: write_success(out)),
    )
    run_stages(out, f"seed {seed}", stages)


if __name__ == "__main__":
    main()
