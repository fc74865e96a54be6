"""Undecided share of the outcome after each turn: `python -m benchmarks.lab.decided --task text_world --world 2`.

An expansion shares the turns before it. Its information is the variance of the outcome from there on, and its cost the
tokens that are still to be sampled. Continuations of every chain are sampled after each of its turns, and both are
reported as shares of their value at the prompt. A tree pays where much is undecided and few tokens remain.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import markdown
from benchmarks.lab.engine import Engine
from benchmarks.lab.episodes import Episode, Task, converse
from benchmarks.lab.gradient import RESULT as GRADIENT
from benchmarks.lab.gradient import Place, keep
from benchmarks.lab.report import TASKS as TITLES
from benchmarks.lab.tasks import TASKS
from verl_atpo.replay.client import ReplayClient
from verl_atpo.tree.recording import Generation
from verl_atpo.tree.trajectory import Trajectory

RESULT = GRADIENT.with_name("lab_decided.json")


@dataclasses.dataclass(frozen=True)
class Continued:
    """Continuations after the first turns of one chain.

    Attributes:
        turns: of the chain, before.
        outcomes: one a continuation.
        tokens: sampled for each.
    """

    turns: int
    outcomes: list[float]
    tokens: list[int]


async def chain_of(engine: Engine, episode: Episode, task: Task, prefix: Sequence[Generation] = ()) -> Trajectory:
    """A conversation that begins with the turns of another."""
    session = ReplayClient(engine, None, prefix)
    return Trajectory.of(session, await converse(session, episode.partner(), task.limits))


def sampled_tokens(branch: Trajectory) -> int:
    """Count the tokens that were not replayed."""
    return sum(len(generation.output.token_ids) for generation in branch.generations[branch.replayed :])


async def continued(engine: Engine, episode: Episode, task: Task, branch: Trajectory, count: int) -> list[Continued]:
    """Continuations of a chain after none of its turns, the first, and so on but the last, which ends it."""
    found = []
    for turns in range(len(branch.turns)):
        prefix = list(chain.from_iterable(turn.generations for turn in branch.turns[:turns]))
        again = await asyncio.gather(*(chain_of(engine, episode, task, prefix) for _ in range(count)))
        found.append(Continued(turns, [each.reward for each in again], list(map(sampled_tokens, again))))
    return found


def summary(chains: Sequence[Sequence[Continued]]) -> list[dict[str, float]]:
    """Summarise by number of turns: running chains, and means over all chains, relative to those after no turn.

    A chain that has ended has nothing undecided and no tokens left.
    """
    longest = max(map(len, chains))
    undecided, tokens = np.zeros((len(chains), longest)), np.zeros((len(chains), longest))
    for row, found in enumerate(chains):
        for each in found:
            undecided[row, each.turns] = np.var(each.outcomes, ddof=1)
            tokens[row, each.turns] = np.mean(each.tokens)
    going = [sum(len(found) > turns for found in chains) / len(chains) for turns in range(longest)]
    shares = zip(going, undecided.mean(0) / undecided[:, 0].mean(), tokens.mean(0) / tokens[:, 0].mean(), strict=True)
    return [
        {"turns": turns, "going": each[0], "undecided": float(each[1]), "tokens": float(each[2])}
        for turns, each in enumerate(shares)
    ]


def measure(task: Task, policy: dict[str, torch.Tensor], prompts: int, count: int, seed: int) -> list[list[Continued]]:
    """A chain for each of the first prompts, and its continuations."""
    model = task.model()
    model.load_state_dict(policy)
    engine = Engine(model, seed, task.end)
    asked = task.train[:prompts]
    branches = asyncio.run(engine.serve([chain_of(engine, episode, task) for episode in asked]))
    begun = zip(asked, branches, strict=True)
    return asyncio.run(engine.serve([continued(engine, episode, task, branch, count) for episode, branch in begun]))


def table(file: Path) -> str:
    """Write a Markdown table, a row per task, world and number of turns."""
    kept: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    rows = [
        {
            "task": TITLES[each["settings"]["task"]].title,
            "world": each["settings"]["world"],
            "turns made": row["turns"],
            "chains still going": f"{row['going']:.0%}",
            "outcome's variance still undecided": f"{row['undecided']:.2f}",
            "tokens still to be sampled": f"{row['tokens']:.2f}",
        }
        for each in kept
        for row in each["found"]
    ]
    return markdown.table(rows) or "Nothing is measured yet."


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab.decided", description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, default="text_world")
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--after", type=int, default=10, help="steps of GRPO that have made the policy")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--continuations", type=int, default=8, help="of every chain after each of its turns")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {name: getattr(options, name) for name in ("task", "world", "seed", "after", "prompts", "continuations")}
    task = TASKS[options.task](options.world)
    policy = Place(options.task, options.world, options.seed, options.after, reference=0).policy(task)
    chains = measure(task, policy, options.prompts, options.continuations, options.seed)
    keep(options.out, settings, summary(chains))
    print(table(options.out))


if __name__ == "__main__":
    main()
