"""Trees whose trajectories have several rows: by hand, random agents, and cut by force against one row."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM
from verl.experimental.agent_loop import AgentLoopOutput
from verl.workers.rollout.replica import TokenOutput

from tests.assets.fakes import STOP, FakeEngine, guard
from tests.assets.trees import credit_of, outputs_of
from verl_atpo.config import (
    AdvantageMode,
    AtpoConfig,
    Backup,
    Contexts,
    CreditConfig,
    ExpansionConfig,
    GrowthConfig,
    Normalize,
    Schedule,
    SharedTurns,
)
from verl_atpo.method.estimator import compute_atpo_advantage
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.runner import LoopRunner, Start
from verl_atpo.rollout.grower import TreeGrower
from verl_atpo.tree.growth import GrownTree
from verl_atpo.tree.stretches import stretches

PROMPT = [1, 2, 3]


def stretch_rows(session: ReplayClient) -> list[AgentLoopOutput]:
    """A row per stretch of a run."""
    return [
        AgentLoopOutput(
            prompt_ids=part.token_ids[: part.prompt_tokens],
            response_ids=part.token_ids[part.prompt_tokens :],
            response_mask=part.sampled[part.prompt_tokens :],
            metrics={},
        )
        for part in stretches(session.generations)
    ]


def turn_rows(session: ReplayClient) -> list[AgentLoopOutput]:
    """A row per turn: its context is the prompt."""
    rows = []
    for part in stretches(session.generations):
        ends = [*part.starts[1:], len(part.token_ids)]
        for start, end in zip(part.starts, ends, strict=True):
            mask = part.sampled[start:end]
            rows.append(
                AgentLoopOutput(
                    prompt_ids=part.token_ids[:start],
                    response_ids=part.token_ids[start:end],
                    response_mask=mask,
                    metrics={},
                )
            )
    return rows


class RandomAgent:
    """Goes on, compacts, asks sub-agents at the same time, or ends; what it does follows from what it reads."""

    def __init__(self, latency_s: float = 0.0, rows=stretch_rows) -> None:
        self._latency_s, self._rows = latency_s, rows

    async def run(self, session: ReplayClient, tools: list) -> list[AgentLoopOutput]:
        await self._talk(session, list(PROMPT), depth=0)
        rows = self._rows(session)
        rows[-1].reward_score = float(sum(map(sum, (row.response_ids for row in rows))) % 3)
        return rows

    async def _talk(self, session: ReplayClient, context: list[int], depth: int) -> int:
        for turn in range(4 - 2 * depth):
            output = await session.generate("own-id", prompt_ids=context, sampling_params={})
            said = output.token_ids[-1]
            await asyncio.sleep(self._latency_s * (said % 3))
            if said == STOP:
                break
            context = [*context, *output.token_ids, 100 + said % 7]
            if said % 4 == 0:
                context = [200 + said % 5]  # a compacted context
            elif said % 4 == 1 and depth == 0:
                start = [300 + turn, 300 + said % 3]
                found = await asyncio.gather(*(self._talk(session, [*start, at % 2], 1) for at in range(said % 3 + 1)))
                context = [*context, *found]
        return context[-1]


def config(chains: int, branches: int, rounds: int, schedule: Schedule, **credit: object) -> AtpoConfig:
    return AtpoConfig(
        expansion=ExpansionConfig(initial_chains=chains, branches_per_round=branches, rounds=rounds, schedule=schedule),
        growth=GrowthConfig(max_regrows=50, regrow_delay_s=0.0),
        credit=CreditConfig(**credit),
    )


async def grow(atpo: AtpoConfig, engine: FakeEngine, agent: RandomAgent) -> GrownTree:
    runner = LoopRunner(engine, guard(), agent.run, [], request_id="tree")
    grown = await TreeGrower(atpo, runner.trajectory, random.Random(0)).grow()
    return grown


class Counting(FakeEngine):
    """Keeps what it sampled."""

    sampled: list[tuple]

    async def generate(self, request_id, *, prompt_ids, **kwargs):
        output = await super().generate(request_id, prompt_ids=prompt_ids, **kwargs)
        self.__dict__.setdefault("sampled", []).append((tuple(prompt_ids), tuple(output.token_ids)))
        return output


def read(rows, credit: CreditConfig) -> torch.Tensor:
    """What the estimator gives the tokens of some rows of one tree."""
    width = max(len(row.response_ids) for row in rows)
    rewards, mask = torch.zeros(len(rows), width), torch.zeros(len(rows), width, dtype=torch.int64)
    for number, row in enumerate(rows):
        rewards[number, : len(row.response_ids)] = torch.tensor(row.token_rewards)
        mask[number, : len(row.response_ids)] = torch.tensor(row.response_mask)
    atpo = {"credit": AtpoConfig(credit=credit).to_mapping()["credit"]}
    advantages, _ = compute_atpo_advantage(rewards.double(), mask, np.array(["u"] * len(rows)), {"atpo": atpo})
    return advantages


def trained(rows, advantages: torch.Tensor) -> list[tuple]:
    """(context, tokens, advantage) of every turn of the rows, sorted."""
    found = []
    for row, of_row in zip(rows, advantages, strict=True):
        ids, shift, at = [*row.prompt_ids, *row.response_ids], len(row.prompt_ids), 0
        mask = [*row.response_mask, 0]
        while at < len(mask):
            end = at
            while mask[end]:
                end += 1
            if end > at:
                own = {round(value, 9) for value in of_row[at:end].tolist()}
                assert len(own) == 1  # one advantage for all tokens of a turn
                found.append((tuple(ids[: shift + at]), tuple(ids[shift + at : shift + end]), own.pop()))
            at = end + 1
    return sorted(found)


SETTINGS = st.sampled_from(
    [
        {"normalize": Normalize.ZSCORE},
        {"backup": Backup.LEAF_MEAN, "advantage": AdvantageMode.DIFF_PARENT, "normalize": Normalize.CENTER},
        {"contexts": Contexts.MERGED, "advantage": AdvantageMode.DIFF_CONTEXT},
        {"shared_turns": SharedTurns.ONCE},
    ]
)


@settings(max_examples=60, deadline=None)
@given(
    chains=st.integers(1, 3),
    branches=st.integers(1, 3),
    rounds=st.integers(0, 2),
    seed=st.integers(0, 10_000),
    schedule=st.sampled_from(list(Schedule)),
    fail=st.sampled_from([0.0, 0.05]),
    latency=st.sampled_from([0.0, 0.001]),
    credit=SETTINGS,
)
def test_random_agents_have_exactly_their_trajectories_and_train_what_was_sampled(
    chains, branches, rounds, seed, schedule, fail, latency, credit
):
    atpo = config(chains, branches, rounds, schedule, **credit)
    engine = Counting(seed, stop=0.2, fail=fail, latency_s=latency)
    grown = asyncio.run(grow(atpo, engine, RandomAgent(latency)))
    assert len(grown.trajectories) == chains + branches * rounds
    found = credit_of(grown, atpo.credit)
    rows = list(outputs_of(grown, atpo.credit))
    for branch in grown.trajectories:
        assert not branch.diverged
    own = {(context, tokens) for context, tokens, _ in trained(rows, read(rows, atpo.credit))}
    assert own <= set(engine.sampled)
    if not fail:
        assert own == set(engine.sampled)
    expected = []
    for branch, path in zip(grown.trajectories, grown.paths, strict=True):
        for node, place in zip(path, branch.places, strict=True):
            output = branch.outputs[place.row]
            context = (*output.prompt_ids, *output.response_ids[: place.start])
            tokens = tuple(grown.tree.turn(node).token_ids)
            mine = grown.tree.nodes[node].sampled_by == grown.trajectories.index(branch)
            if atpo.credit.shared_turns is SharedTurns.PER_LEAF or mine:
                expected.append((context, tokens, found.advantages[node]))
    told = trained(rows, read(rows, atpo.credit))
    assert [each[:2] for each in told] == [each[:2] for each in sorted(expected)]
    values = sorted(expected)
    # Equal turns in equal contexts may differ in advantage; compare them as sets of numbers.
    assert sorted(round(value, 4) for *_, value in told) == pytest.approx(
        sorted(value for *_, value in values), abs=1e-3
    )
    assert [sum(row.token_rewards) for row in rows if row.reward_score is not None] == pytest.approx(
        [branch.reward for branch in grown.trajectories], abs=1e-5
    )


@pytest.mark.parametrize("row_means", [False, True], ids=["sum over tokens", "mean over a row's tokens"])
@pytest.mark.parametrize("seed", range(6))
async def test_a_trajectory_cut_into_rows_has_the_gradient_of_one_row(seed, row_means):
    """Same tree, one row a stretch and one row a turn: equal gradients of a sum over tokens, and of a mean over rows.

    Rows of a mean have weights, so that it is, up to the number of rows, a mean over trajectories.
    """
    atpo = config(3, 2, 1, Schedule.ROUNDS, contexts=Contexts.MERGED, advantage=AdvantageMode.DIFF_CONTEXT)
    trees = [await grow(atpo, FakeEngine(seed, stop=0.2), RandomAgent(rows=rows)) for rows in (stretch_rows, turn_rows)]
    rewards = [branch.reward for branch in trees[0].trajectories]
    for branch, reward in zip(trees[1].trajectories, rewards, strict=True):
        branch.output.reward_score = reward
        trees[1].tree.nodes[trees[1].leaves[trees[1].trajectories.index(branch)]].reward = reward
    torch.manual_seed(0)
    shape = Qwen3Config(
        vocab_size=400, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=256,
    )  # fmt: skip
    model = Qwen3ForCausalLM(shape).double()
    gradients = []
    for grown in trees:
        rows = list(outputs_of(grown, atpo.credit, row_means))
        advantages = read(rows, atpo.credit)
        model.zero_grad()
        for row, of_row in zip(rows, advantages, strict=True):
            ids, shift = torch.tensor([*row.prompt_ids, *row.response_ids]), len(row.prompt_ids)
            log_probs = model(ids[None]).logits[0, shift - 1 : -1].log_softmax(-1)
            own = log_probs.gather(1, ids[shift:, None])[:, 0]
            weights = of_row[: len(own)] * torch.tensor(row.response_mask)
            loss = (own * weights).sum()
            (loss / max(sum(row.response_mask), 1) if row_means else loss).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert len(list(outputs_of(trees[0]))) < len(list(outputs_of(trees[1])))
    assert gradients[0].norm() > 0
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)  # rows carry float32


class Script:
    """An engine that answers a context with the next of its tokens."""

    def __init__(self, answers: dict[tuple[int, ...], list[int]]) -> None:
        self._answers = {context: list(tokens) for context, tokens in answers.items()}

    async def generate(self, request_id, *, prompt_ids, **kwargs) -> TokenOutput:
        token = self._answers[tuple(prompt_ids)].pop(0)
        return TokenOutput(token_ids=[token, 9], log_probs=[-1.0, -1.0])


async def two_chains(steps, answers, rewards) -> tuple[list, torch.Tensor]:
    """Two chains that ask with given contexts; their rows and advantages under two kinds of credit."""
    runs = iter(range(2))

    async def loop(session: ReplayClient, tools: list) -> list[AgentLoopOutput]:
        number = next(runs)
        for context in steps(number):
            await session.generate("x", prompt_ids=context, sampling_params={})
        rows = stretch_rows(session)
        rows[-1].reward_score = rewards[number]
        return rows

    runner = LoopRunner(Script(answers), guard(), loop, [])
    run = SimpleNamespace(lock=asyncio.Lock())

    async def one_after_the_other(start: Start):
        async with run.lock:
            return await runner.trajectory(start)

    atpo = config(2, 1, 0, Schedule.ROUNDS, contexts=Contexts.MERGED, advantage=AdvantageMode.DIFF_CONTEXT,
                  normalize=Normalize.CENTER, backup=Backup.LEAF_MEAN)  # fmt: skip
    grown = await TreeGrower(atpo, one_after_the_other, random.Random(0)).grow()
    rows = list(outputs_of(grown, atpo.credit))
    return rows, read(rows, atpo.credit)


async def test_compaction_by_hand():
    """Chain 1 answers 5 and is compacted to S, chain 2 answers 6 and is compacted to the same S; they get 1 and 0.

    First turns: one context with 5 (value 1) and 6 (value 0), mean 1/2: +1/2 and -1/2. Second turns: one context S of
    both, with 7 (value 1) and 8 (value 0): again +1/2 and -1/2. Baselines shrink to that of the turn before, which is
    1/2 as well. Four rows of one turn each, whose outcome counts twice only.
    """
    compacted = [40]
    rows, advantages = await two_chains(
        lambda number: [PROMPT, compacted], {tuple(PROMPT): [5, 6], tuple(compacted): [7, 8]}, [1.0, 0.0]
    )
    assert [row.prompt_ids for row in rows] == [PROMPT, compacted, PROMPT, compacted]
    assert [row.response_ids[:2] for row in rows] == [[5, 9], [7, 9], [6, 9], [8, 9]]
    assert [row.response_mask[:2] for row in rows] == [[1, 1]] * 4
    assert [sum(row.token_rewards) for row in rows] == pytest.approx([1.0, 1.0, 0.0, 0.0])
    assert advantages[:, :2].tolist() == [[0.5, 0.5], [0.5, 0.5], [-0.5, -0.5], [-0.5, -0.5]]


async def test_stripped_thinking_by_hand():
    """The first turn thinks (5 or 6) and says 9; its thinking is stripped before the second, which has its own row.

    Second turns are asked with PROMPT 9 30, one context of 7 (value 1) and 8 (value 0): +1/2 and -1/2. The
    first turns have one context as well.
    """
    stripped = [*PROMPT, 9, 30]
    rows, advantages = await two_chains(
        lambda number: [PROMPT, stripped], {tuple(PROMPT): [5, 6], tuple(stripped): [7, 8]}, [1.0, 0.0]
    )
    assert [row.prompt_ids for row in rows[:2]] == [PROMPT, stripped]
    assert [row.response_ids[:2] for row in rows[:2]] == [[5, 9], [7, 9]]
    assert advantages[:, 0].tolist() == pytest.approx([0.5, 0.5, -0.5, -0.5])


async def test_sub_agents_by_hand():
    """A main conversation goes on in its own row with what a sub-agent found in another.

    Chain 1: main 5 9, sub-agent 7 9, main goes on 4 9; chain 2: main 6 9, sub-agent 8 9, main goes on 3 9. Rewards 1
    and 0: all turns of chain 1 get +1/2, all of chain 2 get -1/2. Two rows a chain; the main one has two turns.
    """
    sub = [50]
    rows, advantages = await two_chains(
        lambda number: [PROMPT, sub, [*PROMPT, 5 + number, 9, 60]],
        {tuple(PROMPT): [5, 6], tuple(sub): [7, 8], (*PROMPT, 5, 9, 60): [4], (*PROMPT, 6, 9, 60): [3]},
        [1.0, 0.0],
    )
    assert [row.prompt_ids for row in rows] == [PROMPT, sub, PROMPT, sub]
    assert rows[0].response_ids[:5] == [5, 9, 60, 4, 9] and rows[0].response_mask[:5] == [1, 1, 0, 1, 1]
    assert advantages[0, [0, 1, 3, 4]].tolist() == pytest.approx([0.5] * 4)
    assert advantages[2, [0, 1, 3, 4]].tolist() == pytest.approx([-0.5] * 4)
    assert advantages[[1, 3], 0].tolist() == pytest.approx([0.5, -0.5])


@pytest.mark.parametrize("rows_of", [stretch_rows, turn_rows])
async def test_statistics_of_a_group_count_trajectories(rows_of):
    """Rewards 1, 0, 0 in 3 trajectories of many rows: the z-score's mean is 1/3 whatever the number of rows."""
    atpo = config(3, 1, 0, Schedule.ROUNDS)
    grown = await grow(atpo, FakeEngine(4, stop=0.05), RandomAgent(rows=rows_of))
    for number, branch in enumerate(grown.trajectories):
        branch.output.reward_score = grown.tree.nodes[grown.leaves[number]].reward = float(number == 0)
    rows = list(outputs_of(grown, atpo.credit))
    assert len(rows) > 3
    deviation = float(np.std([1.0, 0.0, 0.0], ddof=0))
    found = {round(value, 4) for *_, value in trained(rows, read(rows, atpo.credit))}
    exact = {round((1 - 1 / 3) / deviation, 4), round(-1 / 3 / deviation, 4)}
    assert found == exact
