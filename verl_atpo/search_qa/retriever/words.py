"""Text to words for sparse retrieval, also in scripts that put no spaces between words.

Chinese, Japanese, Thai and similar scripts are split into overlapping pairs of characters, as search engines do without
a dictionary: a query then shares terms with every passage that has two of its characters in a row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Japanese kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
_RUN = re.compile(f"[{_UNSPACED}]+")
_WORD_OR_RUN = re.compile(rf"[{_UNSPACED}]+|(?:(?![{_UNSPACED}])\w){{2,}}")
_LEAST_SHARE = 0.1
"""Share of letters in such scripts from which a corpus counts as one without spaces."""
_SAMPLED = 1000


def has_unspaced_text(passages: Sequence[str]) -> bool:
    """Return whether so much of a sample of passages is in scripts without spaces that words would find nothing."""
    text = "".join(passages)
    unspaced = sum(len(run) for run in _RUN.findall(text))
    return unspaced > _LEAST_SHARE * max(sum(map(str.isalpha, text)), 1)


def sampled(size: int) -> list[int]:
    """Return the numbers of the sampled passages, spread over a corpus of this size."""
    return sorted(
        {place * size // _SAMPLED for place in range(min(size, _SAMPLED))} if size > _SAMPLED else range(size)
    )


def words_and_pairs(text: str) -> list[str]:
    """Split text into words of at least two letters and, in scripts without spaces, pairs of characters (or one)."""
    return [term for found in _WORD_OR_RUN.findall(text) for term in _terms(found)]


def _terms(found: str) -> list[str]:
    if not _RUN.fullmatch(found):
        return [found]
    return [found[at : at + 2] for at in range(max(len(found) - 1, 1))]
