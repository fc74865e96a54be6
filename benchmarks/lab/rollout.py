"""Trees of the laboratory, grown by the package's own grower, and their rows; chains are trees without rounds."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence

from benchmarks.lab.engine import Engine
from benchmarks.lab.episodes import Episode, Task, Trajectory, converse
from verl_atpo.config import AtpoConfig
from verl_atpo.method.scheme import Questions, Scheme, find_scheme
from verl_atpo.method.undecided import Undecided
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.runner import Start
from verl_atpo.rollout.budget import SpareExpansions
from verl_atpo.rollout.grower import TreeGrower, grow_and_ask
from verl_atpo.rollout.rows import token_rewards, trained_masks
from verl_atpo.tree.growth import GrownTree
from verl_atpo.tree.trajectory import Trajectory as Finished


@dataclasses.dataclass(frozen=True)
class Row:
    """Trajectory of a tree, as it is trained.

    Attributes:
        trajectory: prompt, response, mask, outcome.
        token_rewards: one a response token; they add up to the outcome and carry the credit of its turns.
    """

    trajectory: Trajectory
    token_rewards: list[float]


async def grow(
    engine: Engine,
    episode: Episode,
    task: Task,
    config: AtpoConfig,
    rng: random.Random,
    spares: SpareExpansions | None = None,
    gains: bool = False,
    undecided: Undecided | None = None,
) -> list[Row]:
    """The rows of one tree, in order of leaf number.

    Trees of a step share ``spares``, those of a run ``undecided``. With ``gains`` turns are credited with the
    information they brought about the episode's gold answer.
    """
    scheme = find_scheme(config, "a2tgpo" if gains else "atpo")
    questions = _gold_answers(engine, episode, task, scheme) if gains else None
    undecided = undecided or Undecided()
    grown = await grow_tree(engine, episode, task, config, rng, spares, questions, undecided.shares)
    undecided.add(grown.tree, config.credit.tool_rewards)
    credit = scheme.credit(grown.tree, grown.paths, grown.answers)
    masks = trained_masks(grown, config.credit.shared_turns)
    return [
        _row(branch.output, mask, rewards)
        for branch, masks_of_rows, turns, outcome in zip(
            grown.trajectories, masks, credit.rows, credit.outcomes, strict=True
        )
        for mask, rewards in zip(masks_of_rows, token_rewards(branch, turns, outcome, [1.0]), strict=True)
    ]


def _row(trajectory: Trajectory, mask: list[int], rewards: list[float]) -> Row:
    """A row, which is as long as its rewards; further tokens are masked."""
    more = len(rewards) - len(mask)
    ids, log_probs = trajectory.response_ids, trajectory.log_probs
    longer = dataclasses.replace(
        trajectory,
        response_ids=ids + ids[-1:] * more,
        response_mask=mask + [0] * more,
        log_probs=log_probs + [0.0] * more,
    )
    return Row(longer, rewards)


async def grow_tree(
    engine: Engine,
    episode: Episode,
    task: Task,
    config: AtpoConfig,
    rng: random.Random,
    spares: SpareExpansions | None = None,
    questions: Questions | None = None,
    undecided: Sequence[float] = (1.0,),
) -> GrownTree:
    """Grow one tree, or its chains; ``questions`` are asked about its contexts."""

    async def run_loop(start: Start) -> Finished:
        ask = None if questions is None else questions.ask
        session = ReplayClient(engine, None, start.prefix, start.on_turn, on_context=ask)
        return Finished.of(session, await converse(session, episode.partner(), task.limits))

    return await grow_and_ask(TreeGrower(config, run_loop, rng, spares, undecided), questions)


def _gold_answers(engine: Engine, episode: Episode, task: Task, scheme: Scheme) -> Questions | None:
    if task.tokenizer is None or not episode.answer:
        raise ValueError("a2tgpo needs a gold answer, which this task has not: use hopqa.")
    prompt = {"uid": "", "reward_model": {"ground_truth": episode.answer}}
    return scheme.questions(engine, task.tokenizer, prompt, math.inf)


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
