"""A finished run of an agent loop: its turns, and the rows in which they are trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from verl_atpo.tree.comparison import Place, check_tree_rows
from verl_atpo.tree.recording import Generation, Turn, group_turns


class RecordedRun(Protocol):
    """Generations that a run of an agent loop has sampled so far."""

    @property
    def generations(self) -> Sequence[Generation]:
        """Every generation, replayed ones first."""

    @property
    def replayed(self) -> int:
        """Number of the replayed ones."""

    @property
    def diverged(self) -> bool:
        """Return whether the loop requested something else than was recorded."""

    def close(self) -> None:
        """Sample nothing any more."""


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """A finished run of the agent loop, a trajectory of a tree.

    Attributes:
        outputs: return value of the agent loop, the last one scored: verl's ``AgentLoopOutput``, or objects with its
            fields; one per stretch of turns in which the context was only added to.
        turns: the trajectory's turns, shared ones included.
        places: place of each turn in the trained rows.
        replayed: generations that were answered from the recording; all after them were sampled.
        diverged: the loop asked with other prompt ids than were recorded, so the replay ended early.
    """

    outputs: list[Any]
    turns: list[Turn]
    places: list[Place]
    replayed: int
    diverged: bool

    @classmethod
    def of(cls, run: RecordedRun, output: Any, response_length: int | None = None) -> Trajectory:
        """Make a trajectory from what a run sampled and what its loop returned.

        Args:
            run: record of the run, which is closed.
            output: return value of the loop, scored: an output, or a list of them.
            response_length: tokens at which a response is cut off; ``None`` if it never is.

        Raises:
            NothingSampledError: the loop did not ask the model.
            TrajectoryBug: the row is not what was sampled; see :func:`verl_atpo.tree.comparison.check_tree_rows`.
        """
        run.close()
        outputs = output if isinstance(output, list) else [output]
        places = check_tree_rows(run.generations, outputs, response_length)
        return cls(outputs, group_turns(run.generations), places, run.replayed, run.diverged)

    @property
    def output(self) -> Any:
        """The last output, which has the reward."""
        return self.outputs[-1]

    @property
    def starts(self) -> list[int]:
        """Index of each turn's first token in the response of its row."""
        return [place.start for place in self.places]

    @property
    def reward(self) -> float:
        """Outcome reward."""
        return float(self.output.reward_score)

    @property
    def generations(self) -> list[Generation]:
        """Every generation, replayed ones first."""
        return [generation for turn in self.turns for generation in turn.generations]
