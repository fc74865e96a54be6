"""One run: an arm in a world with a seed, from the warm start to its last validation and its record."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks import runs
from benchmarks.lab.arms import ARMS, settings
from benchmarks.lab.engine import Engine
from benchmarks.lab.episodes import Episode, Task
from benchmarks.lab.rollout import Row, accuracy, grow
from benchmarks.lab.update import Learner
from verl_atpo.method.undecided import Undecided
from verl_atpo.rollout.budget import SpareExpansions

MOST_GENERATED = 10
"""With filtered groups, the most prompts asked in a step, over those it wants."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Identity and length of a run.

    Attributes:
        task, arm, world, seed: which.
        steps: of training.
        test_every: steps between validations.
    """

    task: str
    arm: str
    world: int
    seed: int
    steps: int = 40
    test_every: int = 5

    @property
    def name(self) -> str:
        """Name of its checkpoint."""
        return f"{self.task}_{self.arm}_w{self.world}_s{self.seed}"


class Run:
    """A run in progress; :meth:`state` holds all of it, so it can be stopped and continued.

    Args:
        plan: which run.
        task: its task in its world.
        changes: settings that are not the arm's.
    """

    def __init__(self, plan: Plan, task: Task, **changes: Any) -> None:
        self._plan, self._task = plan, task
        self._settings = dataclasses.replace(settings(ARMS[plan.arm].overrides), **changes)
        self._model = task.model()
        self._learner = Learner(self._model, self._settings)
        self._engine = Engine(self._model, plan.seed, task.end)
        self._prompts = 0  # asked so far
        self._totals = {"trained_tokens_in_rows": 0, "trained_tokens_distinct": 0, "seconds": 0.0}
        kept = ("curve", "reward", "equal_rewards_share", "clipped_share")
        self._history: dict[str, list[Any]] = {name: [] for name in kept}
        self._undecided = Undecided()
        self.step = 0

    def state(self) -> dict[str, Any]:
        """Return the state from which a stopped run continues."""
        return {
            "step": self.step,
            "prompts": self._prompts,
            "totals": self._totals,
            "history": self._history,
            "model": self._model.state_dict(),
            "optimizer": self._learner.optimizer.state_dict(),
            "random": self._engine.random.get_state(),
            "sampled": self._engine.sampled_tokens,
            "undecided": dict(vars(self._undecided)),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        self.step, self._prompts = state["step"], state["prompts"]
        self._totals = state["totals"]
        self._history |= state["history"]  # of before a figure was kept it has none
        self._model.load_state_dict(state["model"])
        self._learner.optimizer.load_state_dict(state["optimizer"])
        self._engine.random.set_state(state["random"])
        self._engine.sampled_tokens = state["sampled"]
        vars(self._undecided).update(state["undecided"])
        self._engine.refresh()

    def train(self) -> None:
        """Train one step."""
        began = time.process_time()
        groups = asyncio.run(self._groups())
        cost = self._learner.step(groups)
        self._engine.refresh()
        self._totals["trained_tokens_in_rows"] += cost.in_rows
        self._totals["trained_tokens_distinct"] += cost.distinct
        self._history["clipped_share"].append(cost.clipped_share)
        self._totals["seconds"] += time.process_time() - began
        self.step += 1

    def gradient(self, policy: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(P,) gradient of the next step's prompts with the policy's weights, which stay what they are."""
        self._model.load_state_dict(policy)
        self._engine.refresh()
        return self._learner.gradient(asyncio.run(self._groups()))

    @property
    def sampled_tokens(self) -> int:
        """Tokens sampled in training so far."""
        return self._engine.sampled_tokens

    @property
    def undecided(self) -> list[float]:
        """Share of the outcome's variance that is left after 0, 1, ... turns, by the trees so far."""
        return self._undecided.shares

    def engine(self) -> Engine:
        """Make another engine with the current weights, so that its samples leave those of training unchanged."""
        return Engine(self._model, self._plan.seed, self._task.end)

    def validate(self) -> float:
        """A point of the curve; returns its accuracy, the mean over sources."""
        by_source = asyncio.run(accuracy(self.engine(), self._task))
        mean = sum(by_source.values()) / len(by_source)
        self._history["curve"].append(
            {
                "step": self.step,
                "sampled_tokens": self._engine.sampled_tokens,
                **self._totals,
                "accuracy": mean,
                "by_source": by_source,
            }
        )
        return mean

    def record(self) -> dict[str, Any]:
        """Make the record of the run."""
        plan = dataclasses.asdict(self._plan)
        return {**plan, "overrides": list(ARMS[self._plan.arm].overrides), **self._history}

    async def _groups(self) -> list[list[Row]]:
        """Rows of a step's prompts; with filtered groups of those only whose outcomes differ."""
        wanted = self._settings.prompts
        kept: list[list[Row]] = []
        asked = 0
        grown: list[list[Row]] = []
        while len(kept) < wanted and asked < MOST_GENERATED * wanted:
            new = await self._grow(wanted - len(kept))
            asked += len(new)
            grown += new
            kept += [group for group in new if _differ(group) or not self._settings.filter_groups]
        outcomes = [row.trajectory.reward_score for group in grown for row in group]
        self._history["reward"].append(sum(outcomes) / len(outcomes))
        self._history["equal_rewards_share"].append(sum(not _differ(group) for group in grown) / len(grown))
        return kept

    async def _grow(self, count: int) -> list[list[Row]]:
        """Trees of the next ``count`` prompts, grown together."""
        prompts = list(itertools.islice(self._order(), self._prompts, self._prompts + count))
        spares, atpo, gains = SpareExpansions(), self._settings.atpo, self._settings.estimator == "a2tgpo"
        growers = [
            grow(
                self._engine,
                episode,
                self._task,
                atpo,
                random.Random(f"{self._plan.seed} {number}"),
                spares,
                gains,
                self._undecided,
            )
            for number, episode in enumerate(prompts, start=self._prompts)
        ]
        self._prompts += count
        return await self._engine.serve(growers)

    def _order(self) -> Iterator[Episode]:
        """Prompts in the order that all arms of a world and seed share."""
        rng = random.Random(f"prompts {self._plan.world} {self._plan.seed}")
        while True:
            yield from rng.sample(self._task.train, len(self._task.train))


def _differ(group: list[Row]) -> bool:
    return len({row.trajectory.reward_score for row in group}) > 1


def complete(plan: Plan, task: Task, results: Path, work: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run it, or the rest of it, and append it to the table.

    Args:
        plan: which run.
        task: its task.
        results: table of finished runs.
        work: folder of checkpoints; one is written with every validation and removed at the end.
        say: gets a line for every validation.
    """
    checkpoint = work / f"{plan.name}.pt"
    run = Run(plan, task)
    if checkpoint.exists():
        run.load(torch.load(checkpoint, weights_only=True))
    else:
        say(_line(plan, 0, run.validate()))
    while run.step < plan.steps:
        run.train()
        if run.step % plan.test_every == 0:
            say(_line(plan, run.step, run.validate()))
            unfinished = checkpoint.with_suffix(".part")
            torch.save(run.state(), unfinished)
            unfinished.replace(checkpoint)
    record = run.record()
    runs.append(results, record)
    checkpoint.unlink(missing_ok=True)
    return record


def _line(plan: Plan, step: int, accuracy: float) -> str:
    return f"{plan.name}  step {step:3d}/{plan.steps}  accuracy {accuracy:.3f}"
