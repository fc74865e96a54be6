"""One line of a dump: the schema that the writer (``report/dump.py``) and the viewer share.

Fields are only ever added: a reader takes a missing one as not known (``None``, not 0). ``summary`` is the first key of
a line, so that an index is made from the first few hundred bytes of every line (``files.head``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, TypedDict

FORMAT = 2
PROMPT_HEAD = 300
"""Characters of a prompt that a summary holds."""


class Pick(TypedDict, total=False):
    """Why a branch started where it did."""

    node: int
    """The turn that was sampled again; 0 is the root: a fresh chain."""
    score: float
    """Mean NLL minus penalty, nats/token, at the time of the choice."""
    penalty: float
    """Nats taken off for earlier expansions of the same context."""
    rank: int
    """Place among the candidates by score, from 1."""
    candidates: int
    """Turns that could have been chosen."""


class ToolUse(TypedDict, total=False):
    """A tool call after a turn."""

    name: str
    error: str | None
    """What it raised, shown to the model as its observation; ``None``: it answered."""
    made: bool
    """False: refused because of ``tools.max_calls``."""


class Node(TypedDict, total=False):
    """One turn. The root (index 0) is the prompt and has no entry."""

    index: int
    parent: int
    round: int
    turn: int
    """Its number in the trajectory, from 1."""
    branch: int
    """Number of the leaf whose run sampled it."""
    observation: str
    """What stood between the turn before and this one."""
    observation_tokens: int
    text: str
    """The sampled tokens, special ones included."""
    tokens: int
    token_ids: list[int]
    token_chars: list[int]
    """Characters of ``text`` that each token makes, ``len(text)`` in all. Missing if they make none of it in order."""
    token_nll_centinats: list[int]
    """Negative log-likelihood of each token in hundredths of a nat."""
    mean_nll: float | None
    versions: tuple[int, int] | None
    """Oldest and newest version of the weights that sampled it."""
    is_leaf: bool
    reward: float | None
    value: float | None
    """On the scale of the reward: with rewards of tools, what is still to come."""
    tool_reward: float
    """What tools gave for the calls behind it; missing where such rewards are left out."""
    advantage: float | None
    """What the estimator gives the turn's tokens; with information gains the mean over the rows that hold it."""
    information_gain: float | None
    """Nats/token that the turn added to the gold answer's mean log-prob; missing where nobody asked."""
    tool_calls: list[ToolUse]
    generation_s: float
    """Seconds the engine took for the turn."""
    tool_s: float
    """Seconds the loop waited for the tools after it."""


class Branch(TypedDict, total=False):
    """One trajectory, by leaf number."""

    number: int
    leaf: int | None
    """Node of its last turn; ``None`` for one that never ended."""
    round: int
    own_turns: int
    diverged: bool
    picked: Pick | None
    started_s: float
    """Seconds from the tree's start to its own."""
    ended_s: float | None
    failures: list[str]
    """Why earlier tries of it died, in order."""
    reward: float
    reward_extra: dict[str, Any]
    """Further keys of the reward function."""
    prompt_tokens: int
    response_tokens: int
    starts: list[int]
    """Where each turn's first token stands in the response; at or behind ``response_tokens``: cut off."""
    tail: str
    """What stood behind the last turn: an observation that the loop never asked on with."""
    tail_tokens: int
    trained_from: int
    """First token of the response that is trained (``credit.shared_turns=once``: the first own turn's)."""


class Summary(TypedDict, total=False):
    """What the table of trees shows."""

    uid: str
    step: int
    prompt: str
    prompt_key: str
    source: str | None
    outcome: str
    """``mixed``, ``equal`` or ``failed``."""
    reward: float | None
    """Mean over leaves."""
    rewards: list[float]
    leaves: int
    nodes: int
    depth: int
    sampled_tokens: int
    saved: float | None
    """Share of sampled tokens saved against as many independent chains like the tree's own initial ones."""
    tool_calls: int
    tool_errors: int
    outages: int | None
    diverged: int
    regrown: int
    seconds: float | None


class Record(TypedDict, total=False):
    """One tree."""

    summary: Summary
    format: int
    uid: str
    global_step: int
    data_source: str | None
    ground_truth: Any
    extra_info: dict[str, Any]
    """The data row's."""
    prompt: str
    prompt_tokens: int
    template: list[str]
    """Special tokens of the tokenizer that occur in the tree's texts."""
    failed: str | None
    """Why the tree failed as a group; its turns so far are still here."""
    root_value: float | None
    credit: dict[str, str]
    picked: list[int]
    picks: list[Pick]
    regrown: int
    outages: int
    seconds: float
    nodes: list[Node]
    branches: list[Branch]


def prompt_key(prompt: str) -> str:
    """Short name of a prompt, the same at every step where it comes up."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def summarize(record: Mapping[str, Any]) -> Summary:
    """The summary of a record; also of one written before summaries were."""
    nodes = record.get("nodes") or []
    branches = record.get("branches") or []
    rewards = [node["reward"] for node in nodes if node.get("reward") is not None]
    calls = [call for node in nodes for call in node.get("tool_calls") or []]
    return Summary(
        uid=str(record["uid"]),
        step=int(record["global_step"]),
        prompt=record.get("prompt", "")[:PROMPT_HEAD],
        prompt_key=prompt_key(record.get("prompt", "")),
        source=record.get("data_source"),
        outcome=_outcome(record, rewards),
        reward=math.fsum(rewards) / len(rewards) if rewards else None,
        rewards=rewards,
        leaves=sum(bool(node["is_leaf"]) for node in nodes),
        nodes=len(nodes),
        depth=max((node["turn"] for node in nodes), default=0),
        sampled_tokens=sum(node["tokens"] for node in nodes),
        saved=_saved(nodes),
        tool_calls=len(calls),
        tool_errors=sum(call.get("error") is not None for call in calls),
        outages=record.get("outages"),
        diverged=sum(bool(branch.get("diverged")) for branch in branches),
        regrown=record.get("regrown") or 0,
        seconds=record.get("seconds"),
    )


def _outcome(record: Mapping[str, Any], rewards: list[float]) -> str:
    if record.get("failed") is not None:
        return "failed"
    return "mixed" if len(set(rewards)) > 1 else "equal"


def _saved(nodes: list[dict[str, Any]]) -> float | None:
    """1 - sampled tokens / (leaves x mean of the initial chains); the chains of round 0 are independent ones."""
    leaves = sum(bool(node["is_leaf"]) for node in nodes)
    chains = sum(bool(node["is_leaf"]) for node in nodes if node["round"] == 0)
    initial = sum(node["tokens"] for node in nodes if node["round"] == 0)
    if not chains or not initial:
        return None
    return 1.0 - sum(node["tokens"] for node in nodes) / (leaves * initial / chains)
