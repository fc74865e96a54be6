"""A function tool and stateful tools in one file: a shell of three actions, and one that is played again."""

from __future__ import annotations

from verl.tools.function_tool import function_tool

from verl_atpo.tools import StatefulTool, action, end_episode

OPENED: list[dict] = []
CLOSED: list[dict] = []


@function_tool("double")
def double(number: int) -> str:
    """Doubles a number.

    Args:
        number: Any.
    """
    return str(2 * number)


class Shell(StatefulTool):
    """Folders with one word each; the right word ends the episode. Forked."""

    name = "shell"

    def open(self, words: dict[str, str] | None = None, goal: str = "elk") -> dict:
        state = {"at": "/", "words": words or {"red": "elk"}, "goal": goal, "steps": 0}
        OPENED.append(state)
        return state

    @action
    def cd(self, state: dict, folder: str) -> str:
        """Goes to a folder.

        Args:
            folder: Where to.
        """
        state["steps"] += 1
        if folder not in state["words"]:
            raise ValueError(f"no folder {folder}")
        state["at"] = folder
        return f"in {folder}"

    @action
    async def read(self, state: dict) -> str:
        """Reads the word in this folder."""
        state["steps"] += 1
        return f"{state['words'].get(state['at'], 'nothing')} after {state['steps']}"

    @action
    def guess(self, state: dict, word: str) -> object:
        """Says the word.

        Args:
            word: The word.
        """
        state["steps"] += 1
        return end_episode("won", 1.0) if word == state["goal"] else ("wrong", -0.5)

    def close(self, state: dict) -> None:
        assert not any(each is state for each in CLOSED)
        CLOSED.append(state)

    def snapshot(self, state: dict) -> dict:
        return dict(state)

    def restore(self, snapshot: dict) -> dict:
        state = dict(snapshot)
        OPENED.append(state)
        return state


class ReplayedShell(Shell):
    """The same, its calls made again."""

    name = "replayed"
    branching = "replay"
