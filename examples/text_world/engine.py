"""The rules of the world: rooms, containers that may be closed, objects in them, and an agent that carries one thing.

What is in a closed container or in another room is known to the engine alone: the agent reads one short text per
action, the room as it looks now.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

NOTHING_HAPPENS = "Nothing happens."
SOLVED = "Goal reached."
VERBS = ("look", "go", "open", "take", "put")


@dataclass(frozen=True)
class Game:
    """Start and goal of a world. Every name occurs once in a game.

    Attributes:
        doors: room -> the rooms next to it, in the order in which they are listed.
        containers: container -> its room.
        closed: containers that are closed at first.
        objects: object -> its container.
        start: room the agent starts in.
        goal: object to move, and the container it has to end up in.
    """

    doors: dict[str, list[str]]
    containers: dict[str, str]
    closed: list[str]
    objects: dict[str, str]
    start: str
    goal: tuple[str, str]

    @property
    def task(self) -> str:
        """The goal in words."""
        return f"Put the {self.goal[0]} in the {self.goal[1]}."

    def to_json(self) -> str:
        """The game as text, for a data row."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Game:
        """The inverse of :meth:`to_json`."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**{**fields, "goal": tuple(fields["goal"])})


@dataclass(frozen=True)
class View:
    """A room as it looks now.

    Attributes:
        room: where the agent is.
        contents: container of this room -> objects in it; None if it is closed.
        doors: rooms next to this one.
    """

    room: str
    contents: dict[str, tuple[str, ...] | None]
    doors: tuple[str, ...]

    def __str__(self) -> str:
        """Return what the agent reads: ``hall: chest closed, desk with key, box empty. doors: attic, study.``"""
        containers = ", ".join(f"{name} {_inside(objects)}" for name, objects in self.contents.items())
        return f"{self.room}: {containers}. doors: {', '.join(self.doors)}."


def _inside(objects: tuple[str, ...] | None) -> str:
    if objects is None:
        return "closed"
    return f"with {' '.join(objects)}" if objects else "empty"


@dataclass
class World:
    """A game being played.

    Attributes:
        game: how it started.
        room: where the agent is.
        closed: containers that are still closed.
        places: object -> its container; None for the one the agent carries.
        solved: the goal was reached, which ends the game.
    """

    game: Game
    room: str
    closed: set[str]
    places: dict[str, str | None]
    solved: bool = False

    @classmethod
    def start(cls, game: Game) -> World:
        """The world at the beginning of a game."""
        return cls(game, game.start, set(game.closed), dict(game.objects))

    def copy(self) -> World:
        """A world in the same state that goes its own way; the game, which never changes, is shared."""
        return World(self.game, self.room, set(self.closed), dict(self.places), self.solved)

    @property
    def carried(self) -> str | None:
        """The object the agent carries."""
        return next((name for name, place in self.places.items() if place is None), None)

    def view(self) -> View:
        """Return what can be seen from the agent's place."""
        here = [name for name, room in self.game.containers.items() if room == self.room]
        contents = {name: None if name in self.closed else self._objects_in(name) for name in here}
        return View(self.room, contents, tuple(self.game.doors[self.room]))

    def act(self, action: str) -> str:
        """Carry out ``look``, ``go ROOM``, ``open CONTAINER``, ``take OBJECT`` or ``put OBJECT in CONTAINER``.

        Returns:
            What the agent then sees; ``NOTHING_HAPPENS`` if the action is none of these or cannot be done, ``SOLVED``
            once the goal is reached.
        """
        if self.solved:
            return SOLVED
        if not self._carry_out(action.split()):
            return NOTHING_HAPPENS
        self.solved = self.places[self.game.goal[0]] == self.game.goal[1]
        return SOLVED if self.solved else str(self.view())

    def _carry_out(self, words: list[str]) -> bool:
        """Changes the state; returns whether the action could be done."""
        contents = self.view().contents
        match words:
            case ["look"]:
                return True
            case ["go", room] if room in self.game.doors[self.room]:
                self.room = room
                return True
            case ["open", container] if container in contents and container in self.closed:
                self.closed.remove(container)
                return True
            case ["take", name] if self.carried is None and any(name in (seen or ()) for seen in contents.values()):
                self.places[name] = None
                return True
            case ["put", name, "in", container] if name == self.carried and contents.get(container) is not None:
                self.places[name] = container
                return True
        return False

    def _objects_in(self, container: str) -> tuple[str, ...]:
        return tuple(name for name, place in self.places.items() if place == container)
