"""Makes everything the quickstart needs: `python -m examples.hopqa.prepare --out DIR --seed 0 --hops 1 2 3 4`.

DIR then holds `corpus.jsonl`, `train.parquet`, `val.parquet`, `model/` (weights, tokenizer and chat
template in one Hugging Face folder) and `warm_start.json` (accuracy before reinforcement learning).
A stage whose files are there is skipped.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_model
from transformers import Qwen3ForCausalLM

from examples.hopqa.chat import ChatCodec, build_tokenizer
from examples.hopqa.demos import make_demos
from examples.hopqa.lexicon import Lexicon, make_lexicon
from examples.hopqa.questions import HOPS, read_questions, sample_questions, write_rows
from examples.hopqa.retrieval import SearchIndex
from examples.hopqa.sampler import measure, sample_conversations
from examples.hopqa.warm_start import warm_start
from examples.hopqa.world import World, make_split_worlds
from examples.kit.stages import Stage, parser, run_stages, say
from verl_atpo.tiny.demo import Demo
from verl_atpo.tiny.model import build_model, save

TRAIN_PER_HOP, VAL_PER_HOP = 400, 64
DEMO_WORLDS, DEMOS_PER_WORLD = 180, 80


def write_data(out: Path, train: World, held_out: World, seed: int, hops: Sequence[int]) -> None:
    """Writes the corpus of both worlds and the questions of each."""
    with (out / "corpus.jsonl").open("w", encoding="utf-8") as corpus:
        for world in (train, held_out):
            for entity in world.entities.values():
                corpus.write(json.dumps({"title": entity.name, "text": entity.passage()}) + "\n")
    rng = random.Random(f"questions-{seed}")
    write_rows(sample_questions(train, TRAIN_PER_HOP, rng, hops), "train", out / "train.parquet")
    write_rows(sample_questions(held_out, VAL_PER_HOP, rng, hops), "val", out / "val.parquet")
    say(f"{len(train.entities)} + {len(held_out.entities)} held-out passages")
    say(f"{len(hops) * TRAIN_PER_HOP} training questions, {len(hops) * VAL_PER_HOP} validation questions")


def collect_demos(lexicon: Lexicon, codec: ChatCodec, held_out: World, seed: int, hops: Sequence[int]) -> list[Demo]:
    """Plays the demonstrations, with progress."""
    demos: list[Demo] = []
    batches = make_demos(lexicon, codec, held_out, DEMO_WORLDS, DEMOS_PER_WORLD, seed, numbers=hops)
    for number, batch in enumerate(batches, start=1):
        demos += batch
        if number % 30 == 0:
            say(f"demonstrations: {len(demos)}/{DEMO_WORLDS * DEMOS_PER_WORLD}")
    return demos


def write_model(
    folder: Path, lexicon: Lexicon, held_out: World, seed: int, hops: Sequence[int], weights: Path | None
) -> None:
    """Builds the tokenizer and the model, warm-starts the model (or takes such weights) and writes both."""
    tokenizer = build_tokenizer(lexicon)
    codec = ChatCodec(tokenizer)
    model = build_model(tokenizer, seed)
    say(f"model: {model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary")
    if weights is None:
        demos = collect_demos(lexicon, codec, held_out, seed, hops)
        warm_start(model, lexicon, codec, demos, seed, lambda line: say(f"warm start: {line}"))
    else:
        load_model(model, weights)
        say(f"warm start: that of {weights}")
    save(model, tokenizer, folder)


def write_accuracy(out: Path, lexicon: Lexicon) -> None:
    """Measures the warm-started model on the validation questions and writes the figures."""
    model = Qwen3ForCausalLM.from_pretrained(out / "model").eval()
    codec = ChatCodec(build_tokenizer(lexicon))
    index = SearchIndex.load(out / "corpus.jsonl")
    questions = read_questions(out / "val.parquet")
    figures = {}
    for name, temperature in (("sampled", 1.0), ("greedy", 0.0)):
        torch.manual_seed(0)
        accuracy = measure(sample_conversations(model, codec, index, questions, temperature))
        say(f"validation before training, {name}: {accuracy}")
        figures[name] = {"overall": accuracy.overall, "by_hops": accuracy.by_hops}
    (out / "warm_start.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def prepare(out: Path, seed: int, hops: Sequence[int] = HOPS, weights: Path | None = None) -> None:
    """Runs the stages whose files are missing; questions and demonstrations are of these numbers of hops.

    Args:
        out: folder to write.
        seed: seed of world, data and model.
        hops: numbers of hops of the questions.
        weights: `model.safetensors` of an earlier warm start to take; None: train.

    Raises:
        ValueError: the folder was made with another seed or other hops.
    """
    lexicon = make_lexicon(seed)
    train, held_out = make_split_worlds(lexicon, seed)
    model = out / "model"
    stages = (
        Stage("data", out / "val.parquet", lambda: write_data(out, train, held_out, seed, hops)),
        Stage("model", model / "model.safetensors", lambda: write_model(model, lexicon, held_out, seed, hops, weights)),
        Stage("accuracy", out / "warm_start.json", lambda: write_accuracy(out, lexicon)),
    )
    run_stages(out, f"seed {seed}, hops {' '.join(map(str, hops))}", stages)


def main() -> None:
    """Command line."""
    command = parser(__doc__)
    command.add_argument("--hops", type=int, nargs="+", default=HOPS, help="numbers of hops of the questions")
    command.add_argument("--weights", type=Path, help="an earlier warm start's model.safetensors; without it: train")
    options = command.parse_args()
    prepare(options.out, options.seed, options.hops, options.weights)


if __name__ == "__main__":
    main()
