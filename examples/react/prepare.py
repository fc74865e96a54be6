"""Data for training and validation, and a tiny model that knows the form and half listens.

python -m examples.react.prepare --out outputs/react
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedTokenizerFast

from examples.react.house import ROOMS, THINGS
from verl_atpo.tiny import ChatFormat, Demo, TrainSettings, Transcript, build_model, imitate, save
from verl_atpo.tiny.tokenizer import word_tokenizer

END = "<|im_end|>"
OPENINGS = {"where": 'Action: where {"thing": "', "go": 'Action: go {"room": "', "take": 'Action: take {"thing": "'}
MOST_TURNS = 6


class ReActChat(ChatFormat):
    """Conversations of this example, every word and every opening of an action one token."""

    @classmethod
    def tokenizer_of(cls, lines: Sequence[str]) -> PreTrainedTokenizerFast:
        """Trains the tokenizer; what follows an opening is decoded without a space, as tools want it."""
        openings = tuple(OPENINGS.values())
        return word_tokenizer(lines, ("\n", *openings, '"}'), opening=openings)

    def act(self, tool: str, value: str) -> list[int]:
        """Ids the model samples for one action, the end token included."""
        return self.encode(f'{OPENINGS[tool]}{value}"}}{END}')

    def seen(self, text: str) -> tuple[int, ...]:
        """Ids between the end of a turn and the start of the next one."""
        return tuple(self.encode(f"\n<|im_start|>user\nObservation: {text}{END}\n<|im_start|>assistant\n"))


def question(wanted: str) -> str:
    """The task in words."""
    return f"Find the {wanted}."


def game(rng: random.Random) -> dict[str, Any]:
    """Arguments of `House.open`."""
    return {"places": {thing: rng.choice(ROOMS[1:]) for thing in THINGS}, "wanted": rng.choice(THINGS)}


def demonstration(chat: ReActChat, rng: random.Random) -> Demo:
    """A search whose player forgets every second time what it should do."""
    places, wanted = (task := game(rng))["places"], task["wanted"]
    at, transcript = "hall", Transcript()
    transcript.read(chat.prompt(question(wanted)))
    for turn in range(MOST_TURNS):
        heeds = rng.random() < 0.5
        if turn == 0:
            thing = wanted if heeds else rng.choice(THINGS)
            transcript.write(chat.act("where", thing))
            answer = places[thing]
        elif turn % 2:
            at = places[wanted] if heeds else rng.choice(ROOMS)
            transcript.write(chat.act("go", at))
            answer = f"in {at}"
        else:
            thing = wanted if heeds else rng.choice(THINGS)
            transcript.write(chat.act("take", thing))
            answer = "not here" if places[thing] != at else "found" if thing == wanted else "not wanted"
        if answer == "found":
            break
        if turn < MOST_TURNS - 1:
            transcript.read(chat.seen(answer))
    return transcript.demo()


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows in verl's form."""
    rng, found = random.Random(seed), []
    for index in range(count):
        task = game(rng)
        info = {"index": index, "need_tools_kwargs": True, "tools_kwargs": {"house": {"create_kwargs": task}}}
        found.append(
            {
                "data_source": "react",
                "prompt": [{"role": "user", "content": question(task["wanted"])}],
                "reward_model": {"style": "rule", "ground_truth": task["wanted"]},
                "extra_info": info,
            }
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data and model")
    parser.add_argument("--demos", type=int, default=3200, help="demonstrations that the model imitates")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", 640, 1), ("val", 150, 2)):
        pd.DataFrame(rows(count, seed)).to_parquet(options.out / f"{name}.parquet")
    words = ["user assistant Find the . Observation: not here wanted found in nowhere", *ROOMS, *THINGS]
    chat, rng = ReActChat(ReActChat.tokenizer_of(words)), random.Random(0)
    model = build_model(chat.tokenizer, seed=0)
    demos = [demonstration(chat, rng) for _ in range(options.demos)]
    imitate(model, demos, seed=0, report=print, settings=TrainSettings(batch_size=32))
    save(model, chat.tokenizer, options.out / "model")


if __name__ == "__main__":
    main()
