"""Rollouts without a model: our real grower and tree, over turns whose lengths are drawn from a stated distribution."""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Any

import numpy as np
from verl.experimental.agent_loop import AgentLoopOutput
from verl.workers.rollout.replica import TokenOutput

from benchmarks.rollout.agent import guard_without_text
from verl_atpo.config import AtpoConfig
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.runner import LoopRunner
from verl_atpo.rollout.grower import TreeGrower

OBSERVATION, STOP = 1, 2
FIRST_ID = 10
"""Token ids: what a tool answers, the last token of a final answer, and from here on one id per sampled turn."""


@dataclasses.dataclass(frozen=True)
class TurnLengths:
    """Lengths of simulated trajectories; assumed, not measured on any model.

    Attributes:
        answer_probability: chance that a turn answers instead of searching.
        max_turns: turns after which a trajectory ends in any case.
        median_tokens: median of the log-normal number of tokens that a turn samples.
        sigma: its standard deviation in log space.
        observation_tokens: tokens of a tool's answer.
        prompt_tokens: tokens of the question.
        mean_nll: mean of the gamma-distributed (shape 2) mean NLL of a turn, nats/token.
    """

    answer_probability: float = 0.35
    max_turns: int = 7
    median_tokens: float = 120.0
    sigma: float = 0.6
    observation_tokens: int = 450
    prompt_tokens: int = 250
    mean_nll: float = 0.3


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Cost of one prompt.

    Attributes:
        leaves: trajectories that are trained on.
        sampled_tokens: tokens the engine sampled.
        trained_tokens: sampled tokens in all rows together; shared turns count once per row.
        context_tokens: tokens of all rows, prompts and observations included: what training computes.
        tool_calls: calls made; what a replay repeats from the record is none.
    """

    leaves: int
    sampled_tokens: int
    trained_tokens: int
    context_tokens: int
    tool_calls: int


class SimulatedEngine:
    """Answers every request with a turn drawn from ``lengths``."""

    def __init__(self, lengths: TurnLengths, seed: int) -> None:
        self._lengths = lengths
        self._rng = random.Random(seed)
        self._ids = itertools.count(FIRST_ID)

    async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: object) -> TokenOutput:
        """Sample one turn; its last token is :data:`STOP` where it answers."""
        lengths, rng = self._lengths, self._rng
        size = max(2, round(lengths.median_tokens * np.exp(rng.gauss(0.0, lengths.sigma))))
        nll = rng.gammavariate(2.0, lengths.mean_nll / 2.0)
        tokens = [next(self._ids)] * size
        if rng.random() < lengths.answer_probability:
            tokens[-1] = STOP
        return TokenOutput(token_ids=tokens, log_probs=[-nll] * size)


async def run_trajectory(session: ReplayClient, lengths: TurnLengths) -> AgentLoopOutput:
    """A search agent's loop: turn, observation, turn, ... until an answer or the turn limit."""
    context = [0] * lengths.prompt_tokens
    mask: list[int] = []
    for turn in range(1, lengths.max_turns + 1):
        output = await session.generate("", prompt_ids=context, sampling_params={})
        context = context + output.token_ids
        mask += [1] * len(output.token_ids)
        if output.token_ids[-1] == STOP or turn == lengths.max_turns:
            break
        context = context + [OBSERVATION] * lengths.observation_tokens
        mask += [0] * lengths.observation_tokens
    prompt, response = context[: lengths.prompt_tokens], context[lengths.prompt_tokens :]
    return AgentLoopOutput(prompt_ids=prompt, response_ids=response, response_mask=mask, metrics={}, reward_score=0.0)


async def sample_prompt(config: AtpoConfig, lengths: TurnLengths, seed: int) -> Sampled:
    """Grow one prompt's tree (with ``rounds=0`` its chains) and count.

    Args:
        config: how the tree grows.
        lengths: the distribution of turns.
        seed: of the turns and of strategies that draw.
    """
    engine = SimulatedEngine(lengths, seed)

    async def loop(session: ReplayClient, tools: list[Any]) -> AgentLoopOutput:
        return await run_trajectory(session, lengths)

    runner = LoopRunner(engine, guard_without_text(config.tools), loop)

    branches = (await TreeGrower(config, runner.trajectory, random.Random(seed)).grow()).trajectories
    live = [each for branch in branches for each in branch.generations[branch.replayed :]]
    return Sampled(
        leaves=len(branches),
        sampled_tokens=sum(len(generation.output.token_ids) for generation in live),
        trained_tokens=sum(sum(branch.output.response_mask) for branch in branches),
        context_tokens=sum(len(branch.output.prompt_ids) + len(branch.output.response_ids) for branch in branches),
        tool_calls=len(live) - len(branches),  # one after every turn except a trajectory's last
    )
