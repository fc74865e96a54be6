"""HopQA's warm start: a drill in reading facts, then the demonstrations."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator

import torch
from transformers import Qwen3ForCausalLM

from examples.hopqa.chat import ChatCodec
from examples.hopqa.lexicon import Lexicon
from examples.hopqa.schema import RELATION_NAMES
from verl_atpo.tiny.demo import Demo
from verl_atpo.tiny.training import IGNORED, Batch, TrainSettings, demo_batches, train

DRILL_STEPS, DRILL_ROWS, _DRILL_FACTS = 150, 32, 8


def drill_batches(lexicon: Lexicon, codec: ChatCodec, rng: random.Random) -> Iterator[Batch]:
    """Yields batches of made-up facts ("mayor NAME author NAME ...") said twice, in another order the second time.

    Only the names of the second time are labelled: they can be known from the first.
    """
    for _ in range(DRILL_STEPS):
        batch = []
        for _ in range(DRILL_ROWS):
            facts = [
                (codec.encode(relation), codec.encode(f"{rng.choice(lexicon.firsts)} {rng.choice(lexicon.seconds)}"))
                for relation in rng.sample(RELATION_NAMES, _DRILL_FACTS)
            ]
            again = rng.sample(facts, _DRILL_FACTS)
            ids = [token for relation, name in facts + again for token in relation + name]
            labels = [IGNORED] * (len(ids) // 2)
            labels += [label for relation, name in again for label in [IGNORED] * len(relation) + name]
            batch.append((ids, labels))
        yield torch.tensor([ids for ids, _ in batch]), torch.tensor([labels for _, labels in batch])


def warm_start(
    model: Qwen3ForCausalLM,
    lexicon: Lexicon,
    codec: ChatCodec,
    demos: list[Demo],
    seed: int,
    report: Callable[[str], None],
) -> None:
    """Trains the model in place: the drill, then the demonstrations.

    Args:
        model: the fresh model.
        lexicon: words for the drill.
        codec: the chat format.
        demos: the conversations, any order.
        seed: seed of the drill and of the order.
        report: gets a progress line every 50 steps.
    """
    settings, rng = TrainSettings(), random.Random(f"warm-start-{seed}")
    steps = DRILL_STEPS + math.ceil(len(demos) / settings.batch_size)
    batches = demo_batches(demos, settings.batch_size, codec.tokenizer.pad_token_id, rng)
    train(model, itertools.chain(drill_batches(lexicon, codec, rng), batches), steps, report, settings)
