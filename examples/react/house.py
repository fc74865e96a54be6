"""A house in which things are to be found: three functions on one state, of which one ends the episode."""

from __future__ import annotations

from verl_atpo.tools import StatefulTool, action, end_episode

ROOMS = ("hall", "kitchen", "cellar", "attic")
THINGS = ("lamp", "rope", "coin")


class House(StatefulTool):
    """One house per trajectory; it can be copied, so trees branch around it by fork."""

    name = "house"

    def open(self, places: dict[str, str], wanted: str) -> dict:
        """The house of the data row: where each thing is, and which one is wanted."""
        return {"places": dict(places), "wanted": wanted, "at": "hall"}

    @action
    def where(self, state: dict, thing: str) -> str:
        """Says in which room a thing is.

        Args:
            thing: The thing.
        """
        return state["places"].get(thing, "nowhere")

    @action
    def go(self, state: dict, room: str) -> str:
        """Goes to a room.

        Args:
            room: The room.
        """
        if room not in ROOMS:
            raise ValueError("no such room")
        state["at"] = room
        return f"in {room}"

    @action
    def take(self, state: dict, thing: str) -> object:
        """Takes a thing in this room; the wanted one ends the search.

        Args:
            thing: The thing.
        """
        if state["places"].get(thing) != state["at"]:
            return "not here"
        return end_episode("found", 1.0) if thing == state["wanted"] else "not wanted"

    def snapshot(self, state: dict) -> dict:
        """A copy: places never change."""
        return dict(state)

    def restore(self, snapshot: dict) -> dict:
        """A house in the state of the snapshot."""
        return dict(snapshot)
