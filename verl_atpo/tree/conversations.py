"""Tracking of a run's conversations, so that a record holds only what each generation adds. Pure Python."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from typing import Any

from verl_atpo.tree.recording import BEGIN, Generation, common_length


def context_key(prompt_ids: Sequence[int], media: Sequence[str]) -> bytes:
    """Digest of a request to the engine: ids, and the digests of images, videos and audio."""
    digest = hashlib.blake2b(array("q", prompt_ids).tobytes(), digest_size=20)
    digest.update("\0".join(media).encode())
    return digest.digest()


class Conversations:
    """Latest state of a run's conversations.

    A loop that only appends has one. One that replaces its context, or asks for several things at a time, has more; a
    context in which nothing of a conversation's latest answer is left begins another.
    """

    def __init__(self) -> None:
        self._ends: list[tuple[Generation, list[int]]] = []  # the latest generation of each, with all ids so far

    def at_end(self, asked: list[int]) -> bool:
        """Return whether a context is that of a conversation so far, so that its turn continues."""
        return any(asked == ids for _, ids in self._ends)

    def record(
        self, asked: list[int], output: Any, media: tuple[str, ...], listed_before: Generation | None
    ) -> Generation:
        """Record an answer as what it adds to the conversation that it continues.

        Args:
            asked: ids that the engine was asked with.
            output: its answer.
            media: digests of what else it was asked with.
            listed_before: the generation before it in the record; ``None`` if there is none, or if others may come
                between.
        """
        found = self._continued(asked)
        if found is None:
            generation = Generation(0, list(asked), output, media=media, before=BEGIN)
        else:
            end, ids, common = found
            before = None if end is listed_before else end
            generation = Generation(len(ids) - common, asked[common:], output, media=media, before=before)
        self._ends.append((generation, asked + output.token_ids))
        return generation

    def add(self, generation: Generation, asked: list[int]) -> None:
        """Adopt a generation that another run recorded."""
        self._continued(asked)
        self._ends.append((generation, asked + generation.output.token_ids))

    def _continued(self, asked: list[int]) -> tuple[Generation, list[int], int] | None:
        """Remove and return the conversation that a context continues, and how many ids they have in common."""
        shared = [common_length(ids, asked) for _, ids in self._ends]
        for number in sorted(range(len(shared)), key=lambda number: (shared[number], number), reverse=True):
            end, ids = self._ends[number]
            if len(ids) - shared[number] < len(end.output.token_ids):
                del self._ends[number]
                return end, ids, shared[number]
        return None
