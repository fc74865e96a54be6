"""The `world` tool of verl's agent loop; it is branched by fork, because it can copy its state."""

from __future__ import annotations

from examples.text_world.engine import Game, World
from verl_atpo.tools import StatefulTool


class WorldTool(StatefulTool):
    """One world per trajectory; the game comes from the data row's ``tools_kwargs.world.create_kwargs.game``."""

    name = "world"

    def open(self, game: str) -> World:
        """The world at the beginning of the row's game."""
        return World.start(Game.from_json(game))

    def call(self, state: World, action: str) -> tuple[str, float]:
        """Does one thing in the world and tells what can be seen.

        Args:
            action: One of: look; go ROOM; open CONTAINER; take OBJECT; put OBJECT in CONTAINER.
        """
        seen = state.act(action)
        return seen, float(state.solved)

    def snapshot(self, state: World) -> World:
        """A copy that later actions do not change."""
        return state.copy()

    def restore(self, snapshot: World) -> World:
        """A new world in the state of the snapshot."""
        return snapshot.copy()
