"""Imperfect demonstrations: games of a careless player, as the conversations they would have been."""

from __future__ import annotations

import random

from examples.text_world.chat import WorldChat
from examples.text_world.engine import Game
from examples.text_world.games import LEVELS, MAX_ACTIONS, draw_game, prompt
from examples.text_world.player import CARELESS, Habits, play
from verl_atpo.tiny.demo import Demo, Transcript


def demonstrate(game: Game, chat: WorldChat, habits: Habits, rng: random.Random) -> Demo:
    """Plays one game; a game that ends, solved or given up, ends with a turn that says so."""
    played = play(game, habits, rng, MAX_ACTIONS)
    transcript = Transcript()
    transcript.read(chat.prompt(prompt(game)))
    for thought, action, observation in zip(played.thoughts, played.actions, played.observations, strict=True):
        transcript.write(chat.call(thought, action))
        transcript.read(chat.observation(observation))
    if played.ended:
        transcript.write(chat.done())
    return transcript.demo()


def make_demos(chat: WorldChat, count: int, taken: frozenset[str], seed: int, habits: Habits = CARELESS) -> list[Demo]:
    """Demonstrations of ``count`` games, levels in turn; none of a game whose JSON is ``taken``."""
    rng = random.Random(f"demos-{seed}")
    demos: list[Demo] = []
    while len(demos) < count:
        game = draw_game(LEVELS[len(demos) % len(LEVELS)], rng)
        if game.to_json() not in taken:
            demos.append(demonstrate(game, chat, habits, rng))
    return demos
