"""A tiny model that knows how to call ``guess`` and half listens: ``python -m ...tiny_model --out DIR``."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from examples.hopqa.demos import Demo
from examples.kit.chat import OBSERVATION_CLOSE, OBSERVATION_OPEN, ChatFormat, word_tokenizer
from examples.kit.model import build_model
from examples.kit.training import Batch, TrainSettings, collate, train

NUMBERS, GUESSES = range(1, 16), 4
STEPS, ROWS = 150, 32
LISTENS = 0.5  # share of guesses that heed what was answered before
CALL_OPEN, CALL_CLOSE = '<tool_call>\n{"name": "guess", "arguments": {"number": ', "}}\n</tool_call>"
WORDS = ["user assistant tool", "Guess my number.", "higher lower", "found after guesses", *map(str, NUMBERS)]


class GuessChat(ChatFormat):
    """Conversations that guess."""

    tool = "guess"

    def guess(self, number: int) -> list[int]:
        """Ids the model samples to guess, the end token included."""
        body = json.dumps({"name": self.tool, "arguments": {"number": number}})
        return self.encode(f"<tool_call>\n{body}\n</tool_call><|im_end|>")


def demonstrate(chat: GuessChat, rng: random.Random) -> Demo:
    """A game of somebody who does not always listen."""
    secret = rng.choice(NUMBERS)
    possible = list(NUMBERS)
    ids = chat.prompt("Guess my number.")
    sampled = [False] * len(ids)
    for turn in range(1, GUESSES + 1):
        number = rng.choice(possible if rng.random() < LISTENS else NUMBERS)
        if number == secret:
            answer, possible = f"found after {turn} guesses", [secret]
        elif number < secret:
            answer, possible = "higher", [each for each in possible if each > number]
        else:
            answer, possible = "lower", [each for each in possible if each < number]
        guess, seen = chat.guess(number), chat.observation(answer)
        ids += [*guess, *seen]
        sampled += [True] * len(guess) + [False] * len(seen)
    return Demo(tuple(ids), tuple(sampled))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.custom_environment.tiny_model", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tokenizer = word_tokenizer(WORDS, ("\n", CALL_OPEN, CALL_CLOSE, OBSERVATION_OPEN, OBSERVATION_CLOSE))
    model, chat, rng = build_model(tokenizer, options.seed), GuessChat(tokenizer), random.Random(options.seed)

    def batches() -> Iterator[Batch]:
        for _ in range(STEPS):
            yield collate([demonstrate(chat, rng) for _ in range(ROWS)], tokenizer.pad_token_id)

    train(model, batches(), STEPS, print, TrainSettings())
    tokenizer.save_pretrained(options.out)
    model.save_pretrained(options.out)


if __name__ == "__main__":
    main()
