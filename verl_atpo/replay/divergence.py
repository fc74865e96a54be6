"""Description of a diverged run: the first token at which its prompt differs from the recorded one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from verl_atpo.replay.client import ReplayClient
from verl_atpo.tree.recording import common_length

WORDS = 8
"""Number of words that a message shows from the first difference on."""


def describe_divergence(session: ReplayClient, decode: Callable[[list[int]], str]) -> str:
    """Describe what a diverged run asked for instead of what is on record.

    Args:
        session: the run's LLM client, diverged.
        decode: text of token ids.
    """
    unasked = session.unasked
    pairs = [(common_length(old, new), old, new) for old in unasked for new in session.missed]
    lead = (
        f"The agent loop asked again for {session.replayed} of the {session.replayed + len(unasked)} generations "
        "that an expansion shares with an earlier trajectory"
    )
    if not pairs:
        return f"{lead}, and continued without the others."
    _, old, new = max(pairs, key=lambda pair: pair[0])
    was, now = around_first_difference(decode(old), decode(new))
    return (
        f"{lead}: where the prompt was ...{was!r} it is ...{now!r} now. A time, a random id or an unseeded draw in a "
        "prompt is the usual cause; make it a function of the data row."
    )


def around_first_difference(old: str, new: str) -> tuple[str, str]:
    """Cut two texts to the words around their first difference."""
    one, other = (re.findall(r"\S+", text) for text in (old, new))
    at = next(
        (at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right),
        min(len(one), len(other)),
    )
    start = max(0, at - 2)
    return _cut(one, start), _cut(other, start)


def _cut(words: Sequence[str], start: int) -> str:
    return " ".join(words[start : start + WORDS])
