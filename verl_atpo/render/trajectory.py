"""One trajectory of a tree: its turns, its tokens as the trainer got them, and its transcript."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from verl_atpo.render.layout import ROOT, below, children_of
from verl_atpo.render.text import headline, signed, without_template


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of a trajectory's tokens.

    Attributes:
        start: position of its first token in the response; negative for the prompt.
        tokens: number of tokens; ``None``: not known.
        text: text of the tokens.
        trained: whether the mask is 1.
        node: the turn that sampled it, ``None`` for prompt and observations.
        advantage: advantage of its tokens.
        value: value of the turn.
    """

    start: int
    tokens: int | None
    text: str
    trained: bool
    node: int | None = None
    advantage: float | None = None
    value: float | None = None

    @property
    def title(self) -> str:
        """Describe kind, length, mask and advantage in a few words."""
        what = f"turn of node {self.node}" if self.node is not None else "prompt" if self.start < 0 else "observation"
        mask = f"mask {int(self.trained)}"
        advantage = f", advantage {signed(self.advantage, 3)}" if self.trained and self.advantage is not None else ""
        return f"{what}: {'?' if self.tokens is None else self.tokens} tokens, {mask}{advantage}"


def path_to(record: Mapping[str, Any], leaf: int) -> list[int]:
    """List the nodes from the first turn to ``leaf``."""
    parents = {node["index"]: node["parent"] for node in record["nodes"]}
    path = []
    while leaf != ROOT:
        path.append(leaf)
        leaf = parents[leaf]
    return path[::-1]


def leaves_of(record: Mapping[str, Any]) -> list[int]:
    """List the nodes that ended a trajectory."""
    return [node["index"] for node in record.get("nodes") or [] if node.get("is_leaf")]


def leaf_through(record: Mapping[str, Any], index: int) -> int | None:
    """Find a trajectory through a turn: the one that sampled it, or any; ``None``: none of them ended."""
    nodes = {node["index"]: node for node in record["nodes"]}
    through = sorted(each for each in [index, *below(children_of(record["nodes"]), index)]
                     if each != ROOT and nodes[each].get("is_leaf"))  # fmt: skip
    own = [
        leaf for leaf in through if index in nodes and nodes[leaf].get("trajectory") == nodes[index].get("trajectory")
    ]
    return next(iter([*own, *through]), None)


def trajectory_of(record: Mapping[str, Any], leaf: int) -> Mapping[str, Any]:
    """Find what the dump says about the trajectory that ``leaf`` ends; empty for an old dump."""
    return next((trajectory for trajectory in record.get("trajectories") or [] if trajectory.get("leaf") == leaf), {})


def segments(record: Mapping[str, Any], leaf: int) -> list[Segment]:
    """Put the row of ``leaf`` together: prompt, then turns and observations in order.

    Text after the response's last token was cut off, and is in no segment.
    """
    nodes = {node["index"]: node for node in record["nodes"]}
    trajectory = trajectory_of(record, leaf)
    length, trained_from = trajectory.get("response_tokens"), trajectory.get("trained_from") or 0
    prompt_tokens = trajectory.get("prompt_tokens", record.get("prompt_tokens"))
    row = [Segment(-(prompt_tokens or 1), prompt_tokens, record.get("prompt", ""), False)]
    at = 0
    for index in path_to(record, leaf):
        node = nodes[index]
        seen = node.get("observation_tokens")
        if node.get("observation"):
            row.append(Segment(at, seen, node["observation"], False))
            at += seen or 0
        tokens = node["tokens"] if length is None else max(0, min(node["tokens"], length - at))
        if tokens == 0:
            break
        trained, advantage = at >= trained_from, node.get("advantage")
        row.append(Segment(at, tokens, node["text"], trained, index, advantage, node.get("value")))
        at += tokens
    if trajectory.get("tail_tokens"):
        row.append(Segment(at, trajectory["tail_tokens"], trajectory.get("tail", ""), False))
    return row


def results(record: Mapping[str, Any]) -> dict[int, str]:
    """Find what every turn was answered, by index: the observation that opened the next turn, or the last text."""
    found: dict[int, str] = {}
    for node in record["nodes"]:
        if node["parent"] != ROOT and node.get("observation"):
            found.setdefault(node["parent"], node["observation"])
    for trajectory in record.get("trajectories") or []:
        if trajectory.get("leaf") is not None and trajectory.get("tail"):
            found.setdefault(trajectory["leaf"], trajectory["tail"])
    return found


@dataclasses.dataclass(frozen=True)
class Event:
    """One event of a trajectory.

    Attributes:
        kind: ``prompt``, ``turn``, ``answer`` or ``end``.
        title: event, in one line.
        text: in full, with the chat template.
        node: the turn, where it is one.
        failed: an error of a tool, or a call that was refused.
    """

    kind: str
    title: str
    text: str
    node: int | None = None
    failed: bool = False


def transcript(record: Mapping[str, Any], leaf: int) -> list[Event]:
    """List the events of a trajectory in the order in which they happened: turns, calls, answers, outcome."""
    nodes = {node["index"]: node for node in record["nodes"]}
    template, trajectory = record.get("template") or [], trajectory_of(record, leaf)
    path = path_to(record, leaf)
    events = [Event("prompt", "prompt", record.get("prompt", ""))]
    for number, index in enumerate(path):
        node = nodes[index]
        words = headline(without_template(node["text"], template))
        events.append(Event("turn", f"turn {node['turn']}: {words}", node["text"], index))
        last = number + 1 == len(path)
        answer = trajectory.get("tail", "") if last else nodes[path[number + 1]].get("observation", "")
        calls = node.get("tool_calls") or []
        if answer or calls:
            failed = any(call.get("error") or call.get("made") is False for call in calls)
            events.append(Event("answer", _answered(calls, node.get("tool_s")), answer, failed=failed))
    end = nodes[path[-1]] if path else {}
    if end.get("reward") is not None:
        extra = "".join(f", {name} {value}" for name, value in (trajectory.get("reward_extra") or {}).items())
        events.append(Event("end", f"reward {end['reward']:g}{extra}", ""))
    return events


def _answered(calls: list[Mapping[str, Any]], seconds: float | None) -> str:
    words = []
    for call in calls:
        if call.get("made") is False:
            words.append(f"{call.get('name')}: refused, over the limit of calls")
        elif call.get("error"):
            words.append(f"{call.get('name')} raised {call['error']}")
        else:
            words.append(f"{call.get('name')} answered")
    took = "" if seconds is None else f" after {seconds:.2f} s"
    return ("; ".join(words) or "observation") + took
