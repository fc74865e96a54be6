"""Slow definitions of what a trie's tokens see, for tests."""

from __future__ import annotations

import itertools

import numpy as np


def flat(rows):
    """Tokens of all rows, one row after the other, and where each begins."""
    return np.array(list(itertools.chain(*rows)), dtype=np.int64), np.cumsum([0, *map(len, rows)])


def ancestors(trie, window=None):
    """Which token sees which, by walking up; with a window only that many tokens, the token itself among them."""
    seen = np.zeros((len(trie), len(trie)), dtype=bool)
    for token in range(len(trie)):
        above, count = token, 0
        while above >= 0 and (window is None or count < window):
            seen[token, above] = True
            above, count = trie.parent_N[above], count + 1
    return seen
