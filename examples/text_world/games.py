"""Random games, and their rows in verl's data format."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pandas as pd

from examples.text_world.engine import Game, World
from examples.text_world.player import CAREFUL, play

ROOMS = "kitchen hall attic cellar garden study pantry porch garage library bedroom nursery workshop lounge"
CONTAINERS = "chest drawer cabinet basket box crate trunk wardrobe locker cupboard safe bin case barrel jar desk"
OBJECTS = "lamp key book cup coin ring apple knife rope candle bottle map hat brush spoon pen"

LEVELS = (2, 3, 4)
"""Numbers of rooms."""
MAX_ACTIONS = 9
"""Actions that an agent may take; every game can be solved within them by one that knows only what it has read."""
_PER_ROOM, _SHARE_CLOSED, _MIN_ACTIONS = 2, 0.6, 3


def draw_game(rooms: int, rng: random.Random) -> Game:
    """Draws a game that takes a careful player at least 3 and at most ``MAX_ACTIONS`` actions.

    The rooms form a ring. Names are drawn newly for every game, so that nothing learned about one is true of
    another.
    """
    while True:
        game = _draw(rooms, rng)
        if _MIN_ACTIONS <= len(play(game, CAREFUL, rng).actions) <= MAX_ACTIONS:
            return game


def _draw(rooms: int, rng: random.Random) -> Game:
    names = rng.sample(ROOMS.split(), rooms)
    doors = {name: list(dict.fromkeys([names[i - 1], names[(i + 1) % rooms]])) for i, name in enumerate(names)}
    for listed in doors.values():
        rng.shuffle(listed)
    containers = dict(zip(rng.sample(CONTAINERS.split(), _PER_ROOM * rooms), names * _PER_ROOM, strict=True))
    closed = [name for name in containers if rng.random() < _SHARE_CLOSED]
    objects = {name: rng.choice(list(containers)) for name in rng.sample(OBJECTS.split(), rooms + 1)}
    wanted = rng.choice(list(objects))
    target = rng.choice([name for name in containers if name != objects[wanted]])
    return Game(doors, containers, closed, objects, rng.choice(names), (wanted, target))


def draw_games(per_level: int, rng: random.Random, taken: frozenset[str] = frozenset()) -> list[Game]:
    """Draws ``per_level`` distinct games of every level, shuffled; none whose JSON is ``taken``."""
    games: dict[str, Game] = {}
    for level in LEVELS:
        wanted = len(games) + per_level
        while len(games) < wanted:
            game = draw_game(level, rng)
            if game.to_json() not in taken:
                games.setdefault(game.to_json(), game)
    result = list(games.values())
    rng.shuffle(result)
    return result


def prompt(game: Game) -> str:
    """Return what the agent reads first: the goal and its room."""
    return f"{game.task}\n{World.start(game).view()}"


def to_row(game: Game, index: int, split: str) -> dict[str, Any]:
    """One row of a verl data file.

    The game goes to the tool through ``tools_kwargs``; the reward is the tool's own verdict, so there is no ground
    truth. It travels as text, because the columns of a parquet file have the same keys in every row.
    """
    return {
        "data_source": f"text_world_{len(game.doors)}rooms",
        "prompt": [{"role": "user", "content": prompt(game)}],
        "ability": "text_world",
        "agent_name": "tool_agent",
        "reward_model": {"style": "rule", "ground_truth": ""},
        "extra_info": {
            "index": index,
            "split": split,
            "need_tools_kwargs": True,
            "tools_kwargs": {"world": {"create_kwargs": {"game": game.to_json()}}},
        },
    }


def write_rows(games: list[Game], split: str, file: Path) -> None:
    """Writes the games as a parquet file."""
    pd.DataFrame([to_row(game, i, split) for i, game in enumerate(games)]).to_parquet(file)


def read_games(file: Path) -> list[Game]:
    """Reads back the games of a parquet file."""
    infos = pd.read_parquet(file)["extra_info"]
    return [Game.from_json(info["tools_kwargs"]["world"]["create_kwargs"]["game"]) for info in infos]
