"""Outcome variance that baselines leave unexplained: `python -m benchmarks.lab.baselines --task text_world --world 2`.

The noise of a turn's advantage is the variance of the outcome around its baseline. Trees of the preset are sampled with
one policy, that of GRPO after some steps. Fitted baselines (ridge regression on two thirds of the trees) are tested on
the last third. All are measured on the same turns, each weighted by its tokens, relative to the mean outcome of the
prompt's other trajectories:

- what the tree's scheme uses, shrunk from the context to the prompt;
- the same, shrunk further to the mean outcome of earlier prompts, with a coefficient for each number of turns: a
  memory of a few numbers;
- a critic: a linear value head on the policy's last hidden state before the turn, with the former among its inputs.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3ForCausalLM

from benchmarks import markdown
from benchmarks.lab.arms import ARMS, settings
from benchmarks.lab.engine import Engine
from benchmarks.lab.episodes import Task
from benchmarks.lab.gradient import RESULT as GRADIENT
from benchmarks.lab.gradient import Place, keep
from benchmarks.lab.report import TASKS as TITLES
from benchmarks.lab.rollout import grow_tree
from benchmarks.lab.tasks import TASKS
from verl_atpo.method.undecided import Undecided
from verl_atpo.schemes.shrunk import centred_returns, estimates
from verl_atpo.tree.contexts import group_contexts
from verl_atpo.tree.growth import GrownTree

RESULT = GRADIENT.with_name("lab_baselines.json")
ARM = "tree"
RIDGE = 10.0


@dataclasses.dataclass(frozen=True)
class Turns:
    """Turns of trajectories, one entry per turn and trajectory, N in all.

    Attributes:
        outcome_N: of the trajectory.
        others_N: mean outcome of the prompt's other trajectories.
        shrunk_N: the scheme's baseline.
        tokens_N: sampled in the turn.
        depth_N: turns before it.
        hidden_ND: the policy's last hidden state before it.
        tree_N: number of its tree.
    """

    outcome_N: torch.Tensor
    others_N: torch.Tensor
    shrunk_N: torch.Tensor
    tokens_N: torch.Tensor
    depth_N: torch.Tensor
    hidden_ND: torch.Tensor
    tree_N: torch.Tensor


@torch.no_grad()
def turns_of(number: int, grown: GrownTree, model: Qwen3ForCausalLM, contexts: Any) -> list[list[Any]]:
    """List what :class:`Turns` holds of one tree, an entry per turn and trajectory."""
    outcome, gain = centred_returns(grown.tree, 0.0)
    grouping = group_contexts(grown.tree, contexts)
    baselines = estimates(grown.tree, grouping, grown.tree.undecided, outcome, gain).baselines
    rewards, found = grown.outcomes, list[list[Any]]()
    for finished, path in zip(grown.trajectories, grown.paths, strict=True):
        said = finished.output
        hidden_SD = model.model(input_ids=torch.tensor([said.prompt_ids + said.response_ids])).last_hidden_state[0]
        others = (sum(rewards) - finished.reward) / (len(rewards) - 1)
        for depth, (place, turn, node) in enumerate(zip(finished.places, finished.turns, path, strict=True)):
            before = hidden_SD[len(said.prompt_ids) + place.start - 1]
            tokens = len(turn.token_ids)
            base = others if baselines[node] is None else baselines[node]
            found.append([finished.reward, others, base, tokens, depth, before, number])
    return found


def sample(task: Task, policy: dict[str, torch.Tensor], trees: int, seed: int) -> Turns:
    """Sample trees of the preset, eight prompts at a time."""
    model = task.model()
    model.load_state_dict(policy)
    engine, atpo, undecided = Engine(model, seed, task.end), settings(ARMS[ARM].overrides).atpo, Undecided()
    found: list[list[Any]] = []
    episodes = random.Random(f"baselines {seed}").sample(task.train, trees)
    for begin in range(0, trees, 8):
        growing = [
            grow_tree(engine, episode, task, atpo, random.Random(f"{seed} {number}"), undecided=undecided.shares)
            for number, episode in enumerate(episodes[begin : begin + 8], start=begin)
        ]
        for number, grown in enumerate(asyncio.run(engine.serve(growing)), start=begin):
            undecided.add(grown.tree)
            found += turns_of(number, grown, model, atpo.credit.contexts)
        engine.forget()
    *numbers, hidden, tree = zip(*found, strict=True)
    outcome, others, shrunk, tokens, depth = (torch.tensor(each, dtype=torch.float64) for each in numbers)
    return Turns(outcome, others, shrunk, tokens, depth.long(), torch.stack(hidden).double(), torch.tensor(tree))


def unexplained(turns: Turns, held_out_N: torch.Tensor) -> dict[str, float]:
    """Compute the mean squared difference of outcome and baseline on the held-out turns, by baseline."""
    weight_N = turns.tokens_N * held_out_N
    by_depth_NK = torch.nn.functional.one_hot(turns.depth_N).double()
    remembered_NK = torch.cat([by_depth_NK, by_depth_NK * turns.shrunk_N[:, None]], dim=1)
    deviation_ND = turns.hidden_ND - turns.hidden_ND[~held_out_N].mean(0)
    hidden_ND = deviation_ND / (turns.hidden_ND[~held_out_N].std(0) + 1e-6)

    def error(baseline_N: torch.Tensor) -> float:
        return float((weight_N * (turns.outcome_N - baseline_N).square()).sum() / weight_N.sum())

    def fitted(inputs_NF: torch.Tensor) -> torch.Tensor:
        trained_FN = (inputs_NF * (turns.tokens_N * ~held_out_N)[:, None]).T
        squares_FF = trained_FN @ inputs_NF + RIDGE * torch.eye(inputs_NF.shape[1], dtype=torch.float64)
        return inputs_NF @ torch.linalg.solve(squares_FF, trained_FN @ turns.outcome_N)

    return {
        "others": error(turns.others_N),
        "shrunk": error(turns.shrunk_N),
        "remembered": error(fitted(remembered_NK)),
        "critic": error(fitted(torch.cat([remembered_NK, hidden_ND], dim=1))),
    }


def table(file: Path) -> str:
    """Write a Markdown table, a row per task and world."""
    kept: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    rows = [
        {
            "task": TITLES[each["settings"]["task"]].title,
            "world": each["settings"]["world"],
            "trees": each["settings"]["trees"],
            "shrunk": f"{each['found']['shrunk'] / each['found']['others']:.2f}",
            "shrunk to earlier prompts": f"{each['found']['remembered'] / each['found']['others']:.2f}",
            "with a critic": f"{each['found']['critic'] / each['found']['others']:.2f}",
        }
        for each in kept
    ]
    return markdown.table(rows) or "Nothing is measured yet."


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab.baselines", description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, default="text_world")
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--after", type=int, default=10, help="steps of GRPO that have made the policy")
    parser.add_argument("--trees", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    conditions = {name: getattr(options, name) for name in ("task", "world", "seed", "after", "trees")}
    task = TASKS[options.task](options.world)
    policy = Place(options.task, options.world, options.seed, options.after, reference=0).policy(task)
    turns = sample(task, policy, options.trees, options.seed)
    keep(options.out, conditions, unexplained(turns, turns.tree_N >= options.trees * 2 // 3))
    print(table(options.out))


if __name__ == "__main__":
    main()
