"""Trees of the laboratory, grown by the package's own grower, and their rows; chains are trees without rounds."""

from __future__ import annotations

import dataclasses
import random

from benchmarks.lab.engine import Engine
from benchmarks.lab.episodes import Episode, Task, Trajectory, converse
from verl_atpo.config import AtpoConfig
from verl_atpo.replay.client import BranchSession
from verl_atpo.replay.runner import Branch, Start
from verl_atpo.rollout.answers import GoldAnswers, SaidAnswer
from verl_atpo.rollout.answers import grow as grow_and_settle
from verl_atpo.rollout.budget import Spares
from verl_atpo.rollout.grower import TreeGrower
from verl_atpo.rollout.grown import GrownTree
from verl_atpo.rollout.rows import gain_rewards, token_rewards, trained_masks


@dataclasses.dataclass(frozen=True)
class Row:
    """What is trained on: one trajectory of a tree.

    Attributes:
        trajectory: prompt, response, mask, outcome.
        token_rewards: one a response token; they add up to the outcome and carry the tree's values.
    """

    trajectory: Trajectory
    token_rewards: list[float]


async def grow(
    engine: Engine,
    episode: Episode,
    task: Task,
    config: AtpoConfig,
    rng: random.Random,
    spares: Spares | None = None,
    gains: bool = False,
) -> list[Row]:
    """The rows of one tree, in order of leaf number; trees of a step share ``spares``.

    With ``gains`` the turns are credited with the information they brought about the episode's gold answer.
    """
    answers = _gold_answers(engine, episode, task, config) if gains else None
    grown = await grow_tree(engine, episode, task, config, rng, spares, answers)
    rewards = gain_rewards(grown, config.information_gain) if gains else token_rewards(grown, config.credit)
    trained = zip(grown.branches, trained_masks(grown, config.credit), rewards, strict=True)
    return [Row(dataclasses.replace(branch.output, response_mask=mask), each) for branch, mask, each in trained]


async def grow_tree(
    engine: Engine,
    episode: Episode,
    task: Task,
    config: AtpoConfig,
    rng: random.Random,
    spares: Spares | None = None,
    answers: GoldAnswers | None = None,
) -> GrownTree:
    """One tree, or its chains; its contexts are told to ``answers``."""

    async def run_branch(start: Start) -> Branch:
        ask = None if answers is None else answers.ask
        session = BranchSession(engine, None, start.prefix, start.on_turn, on_context=ask)
        return Branch.of(session, await converse(session, episode.partner(), task.limits))

    return await grow_and_settle(TreeGrower(config, run_branch, rng, spares), answers)


def _gold_answers(engine: Engine, episode: Episode, task: Task, config: AtpoConfig) -> GoldAnswers:
    if task.tokenizer is None or not episode.answer:
        raise ValueError("a2tgpo needs a gold answer, which this task has not: use hopqa.")
    said = SaidAnswer.of(task.tokenizer, config.information_gain.prompt, episode.answer)
    return GoldAnswers(engine, "", said, config.growth)


async def accuracy(engine: Engine, task: Task, at_once: int = 250) -> dict[str, float]:
    """Mean outcome on the held-out questions, by source; every question is asked once."""
    outcomes: dict[str, list[float]] = {}
    for begin in range(0, len(task.held_out), at_once):
        episodes = task.held_out[begin : begin + at_once]
        played = await engine.serve([converse(engine, each.partner(), task.limits) for each in episodes])
        for episode, trajectory in zip(episodes, played, strict=True):
            outcomes.setdefault(episode.source, []).append(trajectory.reward_score)
        engine.forget()
    return {source: sum(each) / len(each) for source, each in sorted(outcomes.items())}
