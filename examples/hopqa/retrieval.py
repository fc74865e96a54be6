"""BM25 retrieval over the passages of the world."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import bm25s

_TITLE_COPIES = 4  # then a full name finds its own passage, however often its words stand in others
NOTHING_FOUND = "Nothing found."


class SearchIndex:
    """The best passage for a query; deterministic, safe to call from several threads."""

    def __init__(self, passages: Iterable[tuple[str, str]]) -> None:
        """Builds the index.

        Args:
            passages: (title, text) of each passage; the title is indexed several times.

        Raises:
            ValueError: there is no passage.
        """
        pairs = list(passages)
        if not pairs:
            raise ValueError("got 0 passages, expected at least 1; write the corpus first (examples.hopqa.prepare)")
        self._texts = [text for _, text in pairs]
        self._bm25 = bm25s.BM25()
        documents = [" ".join([title] * _TITLE_COPIES + [text]) for title, text in pairs]
        tokens = bm25s.tokenize(documents, stopwords=None, show_progress=False)
        self._bm25.index(tokens, show_progress=False)

    @classmethod
    def load(cls, corpus: Path) -> SearchIndex:
        """Builds the index of a corpus file (JSON lines with `title` and `text`)."""
        with corpus.open(encoding="utf-8") as lines:
            return cls((row["title"], row["text"]) for row in map(json.loads, lines))

    def search(self, query: str) -> str:
        """The text of the best passage, or `NOTHING_FOUND` when no passage shares a word with the query."""
        tokens = bm25s.tokenize(query, stopwords=None, return_ids=False, show_progress=False)[0]
        ids = self._bm25.get_tokens_ids(tokens)
        if not ids:
            return NOTHING_FOUND
        scores = self._bm25.get_scores_from_ids(ids)
        best = int(scores.argmax())
        return self._texts[best] if scores[best] > 0 else NOTHING_FOUND
