"""The schema of one line of a dump, shared by the writer (``report/dump.py``) and the viewer.

A reader takes a missing field as unknown (``None``, not 0), and accepts the field names of earlier formats
(``RENAMED`` in ``report/record_check.py``). ``summary`` is the first key of a line, so that an index is made from the
first few hundred bytes of every line.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Interval, Len
from typing_extensions import TypedDict

from verl_atpo.report.plain_json import plain

FORMAT = 4
PROMPT_HEAD = 300
"""Characters of a prompt that a summary holds."""

Number = Annotated[float, Interval(ge=-1e12, le=1e12)]
Count = Annotated[int, Interval(ge=0, le=1 << 53)]
Seconds = Annotated[float, Interval(ge=0, le=1e9)]
Outcome = Literal["mixed", "equal", "failed"]
"""Outcome of a tree: different rewards, all the same one, or failed as a group."""


class SelectionRecord(TypedDict, total=False):
    """Reason for which an expansion started at its turn."""

    node: Count
    """The turn that was sampled again; 0 is the root: a fresh chain."""
    score: Number
    """Mean NLL minus penalty, nats/token, at the time of the selection."""
    penalty: Number
    """Nats subtracted for earlier expansions of the same context."""
    rank: Count
    """Place among the candidates by score, from 1."""
    candidates: Count
    """Number of turns that could have been selected."""


class Difference(TypedDict, total=False):
    """One term of an advantage, ``weight * scale * (value - baseline)``; a turn's terms add up to its advantage."""

    value: Number
    """Value of the turn, on the scale of the rewards."""
    baseline: Number
    """Value that it is compared with, on the same scale."""
    baseline_from: str
    """Origin of the baseline: ``prompt`` (the root's value), ``parent`` (the value of the turn before),
    ``before`` (the baseline of the turn before), ``siblings`` (turns sampled after the same node), ``context`` (turns
    sampled in an equal context, whichever node they follow), ``chains`` (the other independent trajectories),
    ``leaves`` (the mean reward of the tree), or empty for a constant."""
    samples: Count
    """Number of turns or trajectories that the baseline is an average of; missing where it is none."""
    prior: Number
    """Value that the baseline was shrunk to; missing where it is a plain average."""
    prior_from: str
    """Origin of ``prior``, in the words of ``baseline_from``."""
    prior_share: Number
    """Weight of ``prior`` in the baseline, 0 to 1."""
    scale: Number
    """Factor of the group's normalisation; 1 if missing."""
    weight: Number
    """Factor of this term; 1 if missing."""


class ToolUse(TypedDict, total=False):
    """A tool call after a turn."""

    name: str
    error: str | None
    """The exception, shown to the model as its observation; ``None``: the tool answered."""
    made: bool
    """False: refused because of ``tools.max_calls``, or answered by the agent loop."""


class Node(TypedDict, total=False):
    """One turn. The root (index 0) is the prompt and has no entry."""

    index: Count
    parent: Count
    round: Count
    turn: Count
    """Its number in the trajectory, from 1."""
    trajectory: Count
    """Number of the trajectory that sampled it."""
    context: Count
    """Number of the context that it was sampled in; turns of equal number saw equal tokens."""
    observation: str
    """Text between the turn before and this one."""
    observation_tokens: Count
    text: str
    """The sampled tokens, special ones included."""
    tokens: Count
    token_ids: list[Count]
    token_chars: list[Count]
    """Characters of ``text`` that each token makes, ``len(text)`` in all. Missing if they make none of it in order."""
    token_nll_centinats: list[Count]
    """Negative log-likelihood of each token in hundredths of a nat."""
    mean_nll: Number | None
    versions: tuple[int, int] | None
    """Oldest and newest version of the weights that sampled it."""
    is_leaf: bool
    reward: Number | None
    value: Number | None
    """On the scale of the reward; with rewards of tools, the return to go."""
    tool_reward: Number
    """Reward of tools for the calls after it; missing where such rewards are ignored."""
    advantage: Number | None
    """Advantage that the estimator gives the turn's tokens; with information gains the mean over its rows.

    The weight of one row among several of a trajectory (``trajectory_rows``) is not in it."""
    differences: list[Difference]
    """The terms that the advantage is the sum of; missing where the credit is no sum of differences."""
    information_gain: Number | None
    """Nats/token that the turn added to the gold answer's mean log-prob; missing where it was not measured."""
    tool_calls: list[ToolUse]
    generation_s: Seconds
    """Seconds the engine took for the turn."""
    tool_s: Seconds
    """Seconds the loop waited for the tools after it."""


class TrajectoryRecord(TypedDict, total=False):
    """One trajectory: an independent chain, or an expansion with the prefix that it shares."""

    number: Count
    leaf: Count | None
    """Node of its last turn; ``None`` for one that never ended."""
    round: Count
    own_turns: Count
    diverged: bool
    selection: SelectionRecord | None
    """Reason of the selection; ``None`` for a chain."""
    started_s: Seconds
    """Seconds from the tree's start to its own."""
    ended_s: Seconds | None
    failures: list[str]
    """Errors of earlier attempts, in order."""
    reward: Number
    reward_extra: dict[str, Any]
    """Further keys of the reward function."""
    prompt_tokens: Count
    response_tokens: Count
    rows: list[Count]
    """Number of the row that each turn is trained in, from 0; empty where the trajectory has one row."""
    starts: list[Count]
    """Position of each turn's first token in the response; at or after ``response_tokens``: cut off."""
    tail: str
    """Text after the last turn: an observation that the policy was not asked about."""
    tail_tokens: Count
    trained_from: Count
    """First token of the response that is trained (``credit.shared_turns=once``: the first own turn's)."""


class Summary(TypedDict, total=False):
    """Facts of a tree that the table of trees shows."""

    uid: str
    step: Count
    start: str | None
    """Name of the run's start (``Record.start``)."""
    prompt: str
    prompt_key: str
    """Short name of the task (:func:`task_key`)."""
    source: str | None
    outcome: Outcome
    reward: Number | None
    """Mean over leaves."""
    rewards: list[Number]
    leaves: Count
    nodes: Count
    depth: Count
    sampled_tokens: Count
    saved: Number | None
    """Share of sampled tokens saved against as many independent chains like the tree's own initial ones."""
    tool_calls: Count
    tool_errors: Count
    outages: Count | None
    diverged: Count
    regrown: Count
    seconds: Seconds | None


class Record(TypedDict, total=False):
    """One tree."""

    summary: Summary
    format: Count
    uid: str
    global_step: Count
    start: str | None
    """Name of the start of the run that grew it, the same in all processes, sortable by time, for instance
    ``20261130-120301-3fa9``. A resumed run has several; missing in old dumps."""
    data_source: str | None
    ground_truth: Any
    extra_info: dict[str, Any]
    """The data row's."""
    prompt: str
    prompt_tokens: Count
    template: Annotated[list[str], Len(0, 1000)]
    """Special tokens of the tokenizer that occur in the tree's texts."""
    failed: str | None
    """Error by which the tree failed as a group; its turns so far are in the record."""
    root_value: Number | None
    credit: dict[str, Any]
    """Settings of the credit by name (``backup``, ``advantage``, ``contexts``, ``normalize``, ...)."""
    selected: list[Count]
    """Nodes at which expansions started, in order; one that was selected twice is there twice."""
    regrown: Count
    outages: Count
    seconds: Seconds
    sampled_tokens: Count
    """Tokens that the engine sampled for the tree, those of failed attempts included."""
    chain_tokens: Number
    """Tokens that as many independent chains sample: trajectories times the mean of the initial chains."""
    nodes: list[Node]
    trajectories: list[TrajectoryRecord]


def task_key(record: Mapping[str, Any]) -> str:
    """Short name of a record's task, the same at every step at which the task comes up.

    Two rows of the data with one prompt text are two tasks. ``extra_info.index`` distinguishes them, or, without one,
    the arguments of their tools and the right answer.
    """
    extra = plain(record.get("extra_info")) or {}
    split = [record.get("data_source"), extra.get("split")]
    if extra.get("index") is not None:
        row = [*split, extra["index"]]
    else:
        row = [*split, extra.get("tools_kwargs"), extra.get("interaction_kwargs"), record.get("ground_truth")]
    return short_hash(json.dumps([record.get("prompt", ""), plain(row)], sort_keys=True))


def short_hash(text: str) -> str:
    """Hash a text to twelve hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def summarize(record: Mapping[str, Any]) -> Summary:
    """Make the summary of a record; also of one written before summaries were."""
    nodes = record.get("nodes") or []
    trajectories = record.get("trajectories") or []
    rewards = [node["reward"] for node in nodes if node.get("reward") is not None]
    calls = [call for node in nodes for call in node.get("tool_calls") or []]
    return Summary(
        uid=str(record["uid"]),
        step=int(record["global_step"]),
        start=record.get("start"),
        prompt=record.get("prompt", "")[:PROMPT_HEAD],
        prompt_key=task_key(record),
        source=record.get("data_source"),
        outcome=_outcome(record, rewards),
        reward=math.fsum(rewards) / len(rewards) if rewards else None,
        rewards=rewards,
        leaves=sum(bool(node["is_leaf"]) for node in nodes),
        nodes=len(nodes),
        depth=max((node["turn"] for node in nodes), default=0),
        sampled_tokens=record.get("sampled_tokens", sum(node["tokens"] for node in nodes)),
        saved=_saved(record, nodes),
        tool_calls=len(calls),
        tool_errors=sum(call.get("error") is not None for call in calls),
        outages=record.get("outages"),
        diverged=sum(bool(each.get("diverged")) for each in trajectories),
        regrown=record.get("regrown") or 0,
        seconds=record.get("seconds"),
    )


def _outcome(record: Mapping[str, Any], rewards: list[float]) -> Outcome:
    if record.get("failed") is not None:
        return "failed"
    return "mixed" if len(set(rewards)) > 1 else "equal"


def _saved(record: Mapping[str, Any], nodes: list[dict[str, Any]]) -> float | None:
    """1 - sampled tokens / (leaves x mean of the initial chains); an old dump lacks the tokens of failed attempts."""
    if chain_tokens := record.get("chain_tokens"):
        return 1.0 - record["sampled_tokens"] / chain_tokens
    leaves = sum(bool(node["is_leaf"]) for node in nodes)
    chains = sum(bool(node["is_leaf"]) for node in nodes if node["round"] == 0)
    initial = sum(node["tokens"] for node in nodes if node["round"] == 0)
    if not chains or not initial:
        return None
    return 1.0 - sum(node["tokens"] for node in nodes) / (leaves * initial / chains)
