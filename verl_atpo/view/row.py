"""The row of a leaf that the trainer got: its tokens, mask and advantages, put together from the turns of its path."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from verl_atpo.view.layout import ROOT


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of a row.

    Attributes:
        start: of its first token in the response; negative for the prompt.
        tokens: number of tokens; ``None``: not known.
        text: what they say.
        trained: whether the mask is 1.
        node: the turn that sampled it, ``None`` for prompt and observations.
        advantage: of its tokens.
        value: of the turn.
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
        """What it is, in a few words."""
        what = f"turn of node {self.node}" if self.node is not None else "prompt" if self.start < 0 else "observation"
        mask = f"mask {int(self.trained)}"
        advantage = f", advantage {self.advantage:+.3f}" if self.trained and self.advantage is not None else ""
        return f"{what}: {'?' if self.tokens is None else self.tokens} tokens, {mask}{advantage}"


def path_to(record: Mapping[str, Any], leaf: int) -> list[int]:
    """Nodes from the first turn to ``leaf``."""
    parents = {node["index"]: node["parent"] for node in record["nodes"]}
    path = []
    while leaf != ROOT:
        path.append(leaf)
        leaf = parents[leaf]
    return path[::-1]


def leaves_of(record: Mapping[str, Any]) -> list[int]:
    """Nodes that ended a trajectory."""
    return [node["index"] for node in record.get("nodes") or [] if node.get("is_leaf")]


def branch_of(record: Mapping[str, Any], leaf: int) -> Mapping[str, Any]:
    """What the dump says about the trajectory that ``leaf`` ends; empty for an old dump."""
    return next((branch for branch in record.get("branches") or [] if branch.get("leaf") == leaf), {})


def segments(record: Mapping[str, Any], leaf: int) -> list[Segment]:
    """The row of ``leaf``: prompt, then turns and observations in order.

    What stands behind the response's last token was cut off, and is in no segment.
    """
    nodes = {node["index"]: node for node in record["nodes"]}
    branch = branch_of(record, leaf)
    length, trained_from = branch.get("response_tokens"), branch.get("trained_from") or 0
    prompt_tokens = branch.get("prompt_tokens", record.get("prompt_tokens"))
    row = [Segment(-(prompt_tokens or 1), prompt_tokens, record.get("prompt", ""), False)]
    at = 0
    for index in path_to(record, leaf):
        node = nodes[index]
        seen = node.get("observation_tokens")
        if node.get("observation"):
            row.append(Segment(at, seen, node["observation"], False))
            at += seen or 0
        kept = node["tokens"] if length is None else max(0, min(node["tokens"], length - at))
        if kept == 0:
            break
        trained, advantage = at >= trained_from, node.get("advantage")
        row.append(Segment(at, kept, node["text"], trained, index, advantage, node.get("value")))
        at += kept
    if branch.get("tail_tokens"):
        row.append(Segment(at, branch["tail_tokens"], branch["tail"], False))
    return row
