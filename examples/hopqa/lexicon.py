"""Made-up words. Every name is two of them, so that a new name is a new pair of known words."""

from __future__ import annotations

import random
from dataclasses import dataclass

_ONSETS = ("b", "br", "d", "dr", "f", "g", "gl", "h", "k", "kr", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea")
_CODAS = ("", "l", "m", "n", "r", "s", "th", "x")

WORDS_PER_LIST = 32


@dataclass(frozen=True)
class Lexicon:
    """A name is a word of `firsts` and a word of `seconds`; all words are distinct."""

    firsts: tuple[str, ...]
    seconds: tuple[str, ...]

    def all_words(self) -> tuple[str, ...]:
        """List all words in a fixed order."""
        return self.firsts + self.seconds

    def draw_names(self, count: int, taken: frozenset[str], rng: random.Random) -> list[str]:
        """Draws distinct names that are not taken.

        Raises:
            ValueError: fewer than `count` names are left.
        """
        free = [name for a in self.firsts for b in self.seconds if (name := f"{a} {b}") not in taken]
        if len(free) < count:
            raise ValueError(f"got count={count}, expected at most {len(free)} free names; use a smaller world")
        return rng.sample(free, count)


def make_lexicon(seed: int) -> Lexicon:
    """Makes the word lists of a seed."""
    rng = random.Random(f"lexicon-{seed}")
    words: dict[str, None] = {}
    while len(words) < 2 * WORDS_PER_LIST:
        syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(2)]
        words.setdefault(("".join(syllables) + rng.choice(_CODAS)).capitalize())
    pool = tuple(words)
    return Lexicon(pool[:WORDS_PER_LIST], pool[WORDS_PER_LIST:])
