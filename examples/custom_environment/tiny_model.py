"""A tiny model that knows how to call ``guess`` and half listens: ``python -m ...tiny_model --out DIR``."""

from __future__ import annotations

import random
from collections.abc import Iterator

from examples.kit.chat import ChatFormat
from examples.kit.demo import Demo, Transcript
from examples.kit.model import build_model
from examples.kit.stages import parser, save
from examples.kit.training import Batch, TrainSettings, collate, train

NUMBERS, GUESSES = range(1, 16), 4
STEPS, ROWS = 150, 32
LISTENS = 0.5  # share of guesses that heed what was answered before
WORDS = ["user assistant tool", "Guess my number.", "higher lower", "found after guesses", *map(str, NUMBERS)]


class GuessChat(ChatFormat):
    """Conversations that guess."""

    tool = "guess"
    argument = "number"
    quote = ""


def demonstrate(chat: GuessChat, rng: random.Random) -> Demo:
    """A game of somebody who does not always listen."""
    secret = rng.choice(NUMBERS)
    possible = list(NUMBERS)
    transcript = Transcript()
    transcript.read(chat.prompt("Guess my number."))
    for turn in range(1, GUESSES + 1):
        number = rng.choice(possible if rng.random() < LISTENS else NUMBERS)
        if number == secret:
            answer, possible = f"found after {turn} guesses", [secret]
        elif number < secret:
            answer, possible = "higher", [each for each in possible if each > number]
        else:
            answer, possible = "lower", [each for each in possible if each < number]
        transcript.write(chat.call("", number))
        transcript.read(chat.observation(answer))
    return transcript.demo()


def main() -> None:
    """Command line."""
    options = parser(__doc__).parse_args()
    tokenizer = GuessChat.tokenizer_of(WORDS)
    model, chat, rng = build_model(tokenizer, options.seed), GuessChat(tokenizer), random.Random(options.seed)

    def batches() -> Iterator[Batch]:
        for _ in range(STEPS):
            yield collate([demonstrate(chat, rng) for _ in range(ROWS)], tokenizer.pad_token_id)

    train(model, batches(), STEPS, print, TrainSettings())
    save(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
