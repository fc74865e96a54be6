"""The text world in the laboratory: long horizons, hidden state; a world here is a set of games and a warm start."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_model, save_model
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from benchmarks.lab.episodes import Episode, Limits, Task
from examples.kit.stages import say
from examples.text_world.chat import WorldChat, build_tokenizer
from examples.text_world.demos import make_demos
from examples.text_world.engine import Game, World
from examples.text_world.games import MAX_ACTIONS, draw_games, prompt
from verl_atpo.tiny.model import build_model
from verl_atpo.tiny.training import imitate

TRAIN_PER_LEVEL, HELD_OUT_PER_LEVEL = 500, 334
LIMITS = Limits(turns=MAX_ACTIONS + 1, tokens=336)
DEMOS = 14400
WARM_STARTS = Path(__file__).parent / "warm_starts"
"""They are kept, for the same training ends elsewhere on another processor."""


class Play:
    """A world being played."""

    def __init__(self, game: Game, chat: WorldChat) -> None:
        self.prompt = chat.prompt(prompt(game))
        self._world, self._chat = World.start(game), chat

    def answer(self, turn_ids: list[int]) -> Sequence[int] | None:
        """Return the observation after the turn's action; None if there is no action."""
        action = self._chat.called(turn_ids)
        return None if action is None else self._chat.observation(self._world.act(action))

    def reward(self, response_ids: list[int]) -> float:
        """1 if the goal was reached, else 0."""
        return float(self._world.solved)


def make_task(world: int) -> Task:
    """The task in a world; trains its warm start, minutes, where none is kept yet."""
    rng = random.Random(f"lab-games-{world}")
    held_out = draw_games(HELD_OUT_PER_LEVEL, rng)
    taken = frozenset(game.to_json() for game in held_out)
    train = draw_games(TRAIN_PER_LEVEL, rng, taken)
    tokenizer = build_tokenizer()
    chat = WorldChat(tokenizer)

    def episodes(games: list[Game]) -> list[Episode]:
        return [Episode(f"{len(each.doors)}rooms", functools.partial(Play, each, chat)) for each in games]

    def model() -> Qwen3ForCausalLM:
        return _warm_started(world, tokenizer, taken)

    return Task(episodes(train), episodes(held_out), LIMITS, int(tokenizer.eos_token_id), model)


def _warm_started(world: int, tokenizer: PreTrainedTokenizerFast, taken: frozenset[str]) -> Qwen3ForCausalLM:
    """The model that has imitated careless players of other games than the held-out ones."""
    model = build_model(tokenizer, world)
    kept = WARM_STARTS / f"text_world{world}.safetensors"
    if kept.exists():
        load_model(model, kept)
        return model
    imitate(model, make_demos(WorldChat(tokenizer), DEMOS, taken, world), world, say)
    kept.parent.mkdir(exist_ok=True)
    unfinished = kept.with_suffix(".part")
    save_model(model, str(unfinished))
    unfinished.replace(kept)
    return model
