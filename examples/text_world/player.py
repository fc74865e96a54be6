"""A player that knows only what it has read, careful or careless: it decides what the demonstrations show."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from examples.text_world.engine import Game, View, World


@dataclass(frozen=True)
class Habits:
    """Error rates of the player: probabilities per action.

    Attributes:
        stray: goes through some door although there is more to do here.
        lost: goes through some door rather than the one that leads on.
        grab: takes some other visible object.
        misplace: puts what it carries into another container.
        fumble: tries to open what is open.
        stop: believes that it is done.
    """

    stray: float
    lost: float
    grab: float
    misplace: float
    fumble: float
    stop: float


CAREFUL = Habits(stray=0.0, lost=0.0, grab=0.0, misplace=0.0, fumble=0.0, stop=0.0)
CARELESS = Habits(stray=0.1, lost=0.15, grab=0.1, misplace=0.08, fumble=0.05, stop=0.02)


@dataclass
class Played:
    """One game as it was played.

    Attributes:
        thoughts: what the player thinks before each action.
        actions: what it did.
        observations: what it read after each.
        solved: whether the goal was reached.
        ended: whether it was solved or given up, rather than cut off.
    """

    thoughts: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    observations: list[str] = field(default_factory=list)
    solved: bool = False
    ended: bool = False


def play(game: Game, habits: Habits, rng: random.Random, limit: int = 20) -> Played:
    """Plays one game until it is solved, given up or ``limit`` actions long."""
    world, played = World.start(game), Played()
    player = _Player(game.goal, habits, rng)
    while not world.solved and len(played.actions) < limit:
        thought, action = player.thought, player.decide(world.view())
        if action is None:
            played.ended = True
            break
        played.thoughts.append(thought)
        played.actions.append(action)
        played.observations.append(world.act(action))
    played.solved, played.ended = world.solved, world.solved or played.ended
    return played


class _Player:
    """Decides from views alone, in the order: put, take, open, go on."""

    def __init__(self, goal: tuple[str, str], habits: Habits, rng: random.Random) -> None:
        self._wanted, self._target = goal
        self._habits, self._rng = habits, rng
        self._carried: str | None = None
        self._came_by: list[str] = []
        self._target_room: str | None = None

    @property
    def thought(self) -> str:
        """Return the player's current aim."""
        return f"find {self._wanted}" if self._carried is None else f"bring {self._target}"

    def decide(self, view: View) -> str | None:
        """The next action; None if it stops."""
        self._remember(view)
        if self._errs(self._habits.stop):
            return None
        if self._errs(self._habits.stray):
            return f"go {self._rng.choice(view.doors)}"
        opened = [name for name, objects in view.contents.items() if objects is not None]
        if opened and self._errs(self._habits.fumble):
            return f"open {self._rng.choice(opened)}"
        return self._find(view, opened) if self._carried is None else self._bring(view, opened)

    def _find(self, view: View, opened: list[str]) -> str:
        seen = [name for container in opened for name in view.contents[container] or ()]
        others = [name for name in seen if name != self._wanted]
        if others and self._errs(self._habits.grab):
            return self._take(self._rng.choice(others))
        if self._wanted in seen:
            return self._take(self._wanted)
        closed = [name for name in view.contents if name not in opened]
        return f"open {closed[0]}" if closed else self._go(view)

    def _take(self, name: str) -> str:
        self._carried = name
        return f"take {name}"

    def _bring(self, view: View, opened: list[str]) -> str | None:
        if opened and self._errs(self._habits.misplace):
            return self._put(self._rng.choice(opened))
        if self._target in opened:
            return self._put(self._target)
        return f"open {self._target}" if self._target in view.contents else self._go(view)

    def _put(self, container: str) -> str:
        name, self._carried = self._carried, None
        return f"put {name} in {container}"

    def _go(self, view: View) -> str:
        if self._errs(self._habits.lost):
            return f"go {self._rng.choice(view.doors)}"
        if self._carried is not None and self._target_room in view.doors:
            return f"go {self._target_room}"
        new = [room for room in view.doors if room not in self._came_by]
        return f"go {(new or view.doors)[0]}"

    def _remember(self, view: View) -> None:
        if view.room not in self._came_by:
            self._came_by.append(view.room)
        if self._target in view.contents:
            self._target_room = view.room

    def _errs(self, probability: float) -> bool:
        return self._rng.random() < probability
