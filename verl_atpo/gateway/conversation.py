"""The calls of one trajectory, and which earlier one a request continues. Pure Python.

A call is a context and an answer, both as token ids. A request whose messages repeat those of an earlier call, its
answer included, and add some at the end *continues* that call: its context is the earlier context, the sampled answer
and the new messages, and nothing that was sampled is tokenised again. Any other request starts a new stretch, whose
context is made by the chat template: a first request, a sub-agent, a compacted context, and one in which an answer came
back otherwise than it was sent.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Hashable, Sequence

from verl_atpo.gateway.fingerprint import Fingerprint
from verl_atpo.gateway.messages import Message, difference


@dataclasses.dataclass(eq=False)
class Call:
    """One answered request.

    Attributes:
        context: ids that the engine was asked with.
        sampled: ids of its answer.
        log_probs: their log-probs, in nats; None where the engine gave none.
        after: the call that it continues; None for the first of a stretch.
        versions: oldest and newest version of the weights that sampled it, where the engine says.
        fingerprint: hash of context and answer, from which those of its continuations are made.
    """

    context: list[int]
    sampled: list[int]
    log_probs: list[float] | None
    after: Call | None = None
    versions: tuple[int | None, int | None] = (None, None)
    fingerprint: Fingerprint = dataclasses.field(default_factory=Fingerprint)

    @property
    def tokens(self) -> list[int]:
        """Context and answer."""
        return self.context + self.sampled


@dataclasses.dataclass(frozen=True)
class Request:
    """A request's place among the calls before it.

    Attributes:
        messages: all of them.
        node: its transcript's number.
        after: the call that it continues; None if it starts a stretch.
        known: number of its messages that the call has, with its answer.
    """

    messages: Sequence[Message]
    node: int
    after: Call | None
    known: int

    @property
    def new(self) -> Sequence[Message]:
        """The messages after that call's."""
        return self.messages[self.known :]


class Conversation:
    """All calls of one trajectory.

    Attributes:
        calls: in the order in which they were answered.
        edits: number of answers that a harness changed, by kind (:func:`~verl_atpo.gateway.messages.difference`).
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.edits: collections.Counter[str] = collections.Counter()
        self._nodes: dict[tuple[int, Hashable], int] = {}
        self._answered: dict[int, list[Call]] = {}
        self._answers: dict[int, list[Message]] = {}

    def find(self, messages: Sequence[Message], tools: Hashable) -> Request:
        """Find the place of a request.

        Args:
            messages: all that it sends.
            tools: the tools on offer, which are part of the context.
        """
        nodes = [self._node(-1, ("tools", tools))]
        for message in messages:
            nodes.append(self._node(nodes[-1], message))
        known = next((k for k in range(len(messages) - 1, 0, -1) if nodes[k] in self._answered), 0)
        self._count_edits(messages, nodes, known)
        return Request(messages, nodes[-1], self._latest(nodes[known]) if known else None, known)

    def add(self, request: Request, answer: Message, call: Call) -> None:
        """Keep an answered call, so that later requests may continue it."""
        self.calls.append(call)
        self._answers.setdefault(request.node, []).append(answer)
        self._answered.setdefault(self._node(request.node, answer), []).append(call)

    def _node(self, parent: int, step: Hashable) -> int:
        return self._nodes.setdefault((parent, step), len(self._nodes))

    def _latest(self, node: int) -> Call:
        """Return the call that ends there; of several with equal texts the first that nothing continues yet."""
        calls = self._answered[node]
        continued = {id(call.after) for call in self.calls}
        return next((call for call in calls if id(call) not in continued), calls[-1])

    def _count_edits(self, messages: Sequence[Message], nodes: Sequence[int], known: int) -> None:
        for at in range(known, len(messages)):
            if messages[at].role == "assistant" and nodes[at] in self._answers:
                kinds = [difference(answer, messages[at]) for answer in self._answers[nodes[at]]]
                self.edits[min(kinds, key=("whitespace", "arguments", "thinking", "other").index)] += 1
                return  # what follows it is new in any case


def stretches(calls: Sequence[Call]) -> list[list[Call]]:
    """Cut the calls of a trajectory into stretches that only append; each call is in exactly one.

    A call that continues another one belongs to that one's stretch, unless an earlier call continued it already: then
    it starts a stretch of its own, with the whole context in front.

    Args:
        calls: in the order in which they were answered.

    Returns:
        Stretches, in the order of their last calls.
    """
    last: dict[int, list[Call]] = {}
    found: list[list[Call]] = []
    for call in calls:
        stretch = last.pop(id(call.after), None) if call.after is not None else None
        if stretch is None:
            found.append(stretch := [])
        stretch.append(call)
        last[id(call)] = stretch
    place = {id(call): number for number, call in enumerate(calls)}
    return sorted(found, key=lambda stretch: place[id(stretch[-1])])
