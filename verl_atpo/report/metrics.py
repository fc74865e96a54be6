"""Metrics of a training step, from the trees that finished in it and the tool calls that they made."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from verl_atpo.extensions import register
from verl_atpo.method.scheme import Credit, Scheme
from verl_atpo.replay.guard import CallCounts
from verl_atpo.report.context_metrics import ContextStats, context_metrics, context_stats
from verl_atpo.report.expansion_benefit import ExpansionStats, expansion_benefit, expansion_stats, variance
from verl_atpo.report.loop_metrics import loop_metrics, reported_numbers
from verl_atpo.report.record import Record
from verl_atpo.report.selection import SelectedPlace, selected_places, selection_metrics
from verl_atpo.tree.growth import GrownTree
from verl_atpo.tree.recording import Generation, context_lengths
from verl_atpo.tree.tree import ROOT

PREFIX = "atpo"
TreeMetric: TypeAlias = Callable[[GrownTree, Credit], float | None]
METRICS: dict[str, TreeMetric] = {}
"""Metrics of extensions by name."""


def register_metric(name: str) -> Callable[[TreeMetric], TreeMetric]:
    """Register a number per finished tree; each step logs its mean as ``atpo/NAME``, without trees that give ``None``.

    Raises:
        ValueError: the name is taken by another function.
    """
    return functools.partial(register, METRICS, "metric", name)


@dataclasses.dataclass(frozen=True)
class TreeStats:
    """Statistics of one tree. Lists hold one entry per event, so that means over a step are means over events.

    Attributes:
        leaves: trajectories.
        rows: rows of all trajectories, before any is left out of training.
        rewards: outcome of each trajectory.
        of_loop: numbers that the agent loop reports of each trajectory.
        nodes: turns in the tree, the root excluded; with continuous growth also those of failed attempts.
        depths: turns of each trajectory.
        branched_nll: mean NLL of each turn selected for re-sampling, nats/token (the root has none). They were
            selected for being high, so part of that is chance: ``resampled_nll`` is an unbiased estimate.
        resampled_nll: mean NLL of each turn sampled in their place.
        branched_places: place of each re-sampled turn of an initial chain.
        branched_turn: number of each re-sampled turn in its trajectory, from 1 (0: a fresh chain).
        chain_variance: variance of the initial chains' outcomes; ``None`` for a single chain.
        expansions: variance and cost of each expansion.
        sampled_tokens: tokens the engine sampled for the tree, those of failed attempts too.
        tree_tokens: tokens of the tree's turns, each once.
        chain_tokens: leaves times the mean tokens of the initial chains: the cost of as many independent chains.
        trained_tokens: tokens of all trajectories, shared ones counted every time.
        prompt_tokens: tokens of all contexts sent to the engine.
        cached_tokens: context tokens that were in the engine's prefix cache.
        distinct_rewards: number of different rewards, those of tools counted in.
        tool_rewards: sum of the tools' rewards per trajectory; zeros if such rewards are left out.
        diverged: trajectories whose replay met other prompt ids than were recorded.
        regrown: trajectories grown again after a failure.
        seconds: wall-clock time from the first chain's start to the last trajectory's end.
        contexts: repetition of contexts, and the variance that is undecided in them.
        teaches: a turn has an advantage other than 0.
        of_scheme: statistics of the credit scheme.
        of_extensions: numbers of registered metrics.
    """

    leaves: int
    nodes: int
    depths: list[int]
    branched_nll: list[float]
    resampled_nll: list[float]
    branched_places: list[SelectedPlace]
    branched_turn: list[int]
    chain_variance: float | None
    expansions: list[ExpansionStats]
    sampled_tokens: int
    tree_tokens: int
    chain_tokens: float
    trained_tokens: int
    prompt_tokens: int
    cached_tokens: int
    distinct_rewards: int
    tool_rewards: list[float]
    diverged: int
    regrown: int
    seconds: float
    contexts: ContextStats | None = None
    teaches: bool = True
    of_scheme: Any = None
    of_extensions: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    rows: int = 0
    rewards: list[float] = dataclasses.field(default_factory=list)
    of_loop: list[dict[str, float]] = dataclasses.field(default_factory=list)


def tree_stats(grown: GrownTree, seconds: float, credit: Credit | None = None) -> TreeStats:
    """Collect the statistics of one finished tree and of its credit."""
    tree = grown.tree
    live: list[Generation] = []
    prompt_tokens = 0
    tool_rewards = [sum(tree.nodes[node].tool_reward for node in tree.path(leaf)) for leaf in grown.leaves]
    for trajectory in grown.trajectories:
        live += trajectory.generations[trajectory.replayed :]
        prompt_tokens += sum(context_lengths(trajectory.generations)[trajectory.replayed :])
    return TreeStats(
        leaves=len(grown.trajectories),
        nodes=len(tree.nodes) - 1,
        depths=[tree.depth(leaf) for leaf in grown.leaves],
        branched_nll=[nll for node in grown.selected if (nll := tree.nodes[node].mean_nll) is not None],
        resampled_nll=[turn.mean_nll for rollout in grown.rollouts if (turn := rollout.resampled) is not None],
        branched_places=selected_places(grown),
        branched_turn=[0 if node == ROOT else tree.depth(node) for node in grown.selected],
        chain_variance=variance([each.reward for each in grown.chains]),
        expansions=expansion_stats(grown),
        sampled_tokens=grown.sampled_tokens,
        tree_tokens=sum(len(tree.turn(node.index).token_ids) for node in tree.nodes[1:]),
        chain_tokens=grown.chain_tokens or 0.0,
        trained_tokens=sum(len(turn.token_ids) for trajectory in grown.trajectories for turn in trajectory.turns),
        prompt_tokens=prompt_tokens,
        cached_tokens=sum(generation.output.extra_fields.get("num_cached_tokens") or 0 for generation in live),
        distinct_rewards=len(set(zip(grown.outcomes, tool_rewards, strict=True))),
        tool_rewards=tool_rewards,
        diverged=sum(trajectory.diverged for trajectory in grown.trajectories),
        regrown=grown.regrown,
        seconds=seconds,
        contexts=context_stats(tree),
        teaches=credit is None or any(credit.advantages[1:]),
        of_scheme=None if credit is None else credit.stats,
        of_extensions={} if credit is None else {name: metric(grown, credit) for name, metric in METRICS.items()},
        rows=sum(len(each.outputs) for each in grown.trajectories),
        rewards=grown.outcomes,
        of_loop=[reported_numbers(each.output) for each in grown.trajectories],
    )


@dataclasses.dataclass
class WorkerStats:
    """Statistics of one rollout worker for a training step.

    Attributes:
        trees: trees that finished.
        failed: number of trees that failed.
        tools: all tool calls, those of failed trajectories and of validation too.
        records: trees for the loggers that show some.
        dump_seconds: CPU time that dumping took, outside of the event loop.
    """

    trees: list[TreeStats] = dataclasses.field(default_factory=list)
    failed: int = 0
    tools: CallCounts = dataclasses.field(default_factory=CallCounts)
    records: list[Record] = dataclasses.field(default_factory=list)
    dump_seconds: float = 0.0

    def keep(self, record: Record, most: int) -> None:
        """Keep a tree for the loggers: at most ``most``, preferably trees with different rewards."""
        self.records = sorted([*self.records, record], key=lambda each: each["summary"]["outcome"] != "mixed")[:most]

    def add(self, other: WorkerStats) -> None:
        """Count ``other`` in."""
        self.trees += other.trees
        self.failed += other.failed
        self.tools.add(other.tools)
        self.records += other.records
        self.dump_seconds += other.dump_seconds


def step_metrics(stats: WorkerStats, scheme: Scheme | None = None) -> dict[str, float]:
    """Make the metrics of one training step, by their names in the logger, those of the credit scheme included."""
    of_trees = [tree.of_scheme for tree in stats.trees]
    metrics = {
        "trees_failed": float(stats.failed),
        "dump_seconds": stats.dump_seconds,
        **_tool_metrics(stats.tools),
        **_tree_metrics(stats.trees),
        **({} if scheme is None else scheme.metrics(of_trees)),
    }
    return {f"{PREFIX}/{name}": value for name, value in metrics.items()}


def _tool_metrics(tools: CallCounts) -> dict[str, float]:
    made = max(tools.calls + tools.memo_hits, 1)
    return {
        "tool_calls": float(tools.calls),
        "tool_retries": float(tools.retries),
        "tool_errors": float(tools.errors),
        "tool_outages": float(tools.outages),
        "tool_calls_over_limit": float(tools.over_limit),
        "tool_memo_hits": float(tools.memo_hits),
        "ended_by_invalid_calls": float(tools.ended_by_invalid),
        "tool_states_unreleased": float(tools.states_opened - tools.states_closed),
        "tool_seconds/mean": tools.seconds / made,
    }


def _tree_metrics(trees: Sequence[TreeStats]) -> dict[str, float]:
    if not trees:
        return {}

    def total(name: str) -> float:
        return float(sum(getattr(tree, name) for tree in trees))

    depths = [depth for tree in trees for depth in tree.depths]
    metrics = {
        "trees": float(len(trees)),
        "leaves_per_tree": total("leaves") / len(trees),
        "nodes_per_tree": total("nodes") / len(trees),
        "rows_per_trajectory": total("rows") / total("leaves"),
        "reward/mean": float(np.mean([reward for tree in trees for reward in tree.rewards])),
        "depth/mean": float(np.mean(depths)),
        "depth/max": float(np.max(depths)),
        "sampled_tokens": total("sampled_tokens"),
        "saved_tokens_share": 1.0 - total("sampled_tokens") / total("chain_tokens"),
        "shared_tokens_share": 1.0 - total("tree_tokens") / total("trained_tokens"),
        "prefix_cache_hit_share": total("cached_tokens") / total("prompt_tokens"),
        "distinct_rewards_per_tree": total("distinct_rewards") / len(trees),
        "equal_rewards_share": sum(tree.distinct_rewards == 1 for tree in trees) / len(trees),
        "tool_reward/mean": float(np.mean([reward for tree in trees for reward in tree.tool_rewards])),
        "replays_diverged": total("diverged"),
        "branches_regrown": total("regrown"),
        "tree_seconds/mean": total("seconds") / len(trees),
        "tree_seconds/max": max(tree.seconds for tree in trees),
    }
    branched_nll = [nll for tree in trees for nll in tree.branched_nll]
    branched_turn = [turn for tree in trees for turn in tree.branched_turn]
    resampled_nll = [nll for tree in trees for nll in tree.resampled_nll]
    if branched_nll:
        metrics["branched_mean_nll"] = float(np.mean(branched_nll))
        metrics["resampled_mean_nll"] = float(np.mean(resampled_nll))
    metrics |= selection_metrics([place for tree in trees for place in tree.branched_places])
    if branched_turn:
        metrics["branched_turn"] = float(np.mean(branched_turn))
    a_chain = total("chain_tokens") / total("leaves")
    of_chains = [tree.chain_variance for tree in trees if tree.chain_variance is not None]
    expansions = [each for tree in trees for each in tree.expansions]
    if (ratio := expansion_benefit(expansions, of_chains, a_chain)) is not None:
        metrics["branch_worth"] = ratio
    for name in dict.fromkeys(name for tree in trees for name in tree.of_extensions):
        if known := [each for tree in trees if (each := tree.of_extensions.get(name)) is not None]:
            metrics[name] = float(np.mean(known))
    metrics |= loop_metrics([reported for tree in trees for reported in tree.of_loop])
    return {**metrics, **context_metrics([tree.contexts for tree in trees if tree.contexts is not None])}
