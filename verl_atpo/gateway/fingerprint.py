"""Fingerprints of token sequences that grow: earlier tokens are not read again."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

SIZE = 9


class Fingerprint:
    """Hash of a token sequence, the same in every process and however the sequence was put together."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=SIZE)

    def followed_by(self, ids: Sequence[int]) -> Fingerprint:
        """Return the fingerprint of the sequence with ``ids`` after it; this one is unchanged."""
        longer = Fingerprint()
        longer._hash = self._hash.copy()
        longer._hash.update(array("q", ids).tobytes())
        return longer

    def name(self, answer: Sequence[int]) -> str:
        """Return a short name for ``answer`` in the context that this is the fingerprint of."""
        named = self._hash.copy()
        named.update(b"answer" + array("q", answer).tobytes())
        return named.hexdigest()
