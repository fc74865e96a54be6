"""Sparse retrieval: BM25 by ``bm25s``, whose scores are computed when the index is built and memory-mapped later."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bm25s
import Stemmer
from bm25s.tokenization import Tokenizer

from verl_atpo.search_qa.retriever.artifacts import build_once
from verl_atpo.search_qa.retriever.corpus import Corpus
from verl_atpo.search_qa.retriever.index import Hit
from verl_atpo.search_qa.retriever.settings import Bm25Settings
from verl_atpo.search_qa.retriever.words import has_unspaced_text, sampled, words_and_pairs

logger = logging.getLogger(__name__)

COMPILE_FROM = 50_000
"""Number of passages from which compiled code (with numba) saves more time than compiling takes."""


class Bm25Index:
    """BM25 over a corpus.

    Args:
        corpus: the passages.
        index_dir: folder for the index.
        settings: conversion of text to terms.
    """

    method = "bm25"
    model = None

    def __init__(self, corpus: Corpus, index_dir: Path, settings: Bm25Settings) -> None:
        self._settings = settings
        unspaced = has_unspaced_text([corpus[place]["contents"] for place in sampled(len(corpus))])
        self._tokenizer = _tokenizer(settings, unspaced)
        fingerprint = {
            "corpus": corpus.fingerprint,
            "settings": dataclasses.asdict(settings),
            "bm25s": importlib.metadata.version("bm25s"),
        }
        if unspaced:
            logger.info("%s is in a script without spaces: its terms are pairs of characters", corpus.path)
            fingerprint["terms"] = "words and pairs of characters"
        backend = "auto" if len(corpus) >= COMPILE_FROM else "numpy"
        folder = index_dir / self.method
        self._files = build_once(folder, fingerprint, lambda work: _build(corpus, self._tokenizer, backend, work))
        self._bm25 = bm25s.BM25.load(folder, mmap=True, backend=backend)
        self._size = len(corpus)
        self.search([corpus[0]["contents"]], topk=1)  # compiles the search, so that no query waits for it

    def check(self) -> None:
        """Raise ``DamagedError`` if a file of the index has changed."""
        for file in self._files:
            file.check()

    def search(self, queries: Sequence[str], topk: int) -> list[list[Hit]]:
        """Return the ``topk`` best passages of each query, best first, without passages that share no term with it."""
        terms = [self._terms(query) for query in queries]
        known = [place for place, ids in enumerate(terms) if ids]
        hits: list[list[Hit]] = [[] for _ in queries]
        if known:
            found = self._bm25.retrieve([terms[each] for each in known], k=min(topk, self._size), show_progress=False)
            for each, places, scores in zip(known, found.documents, found.scores, strict=True):
                pairs = zip(places.tolist(), scores.tolist(), strict=True)
                hits[each] = [(place, score) for place, score in pairs if score > 0]
        return hits

    def _terms(self, query: str) -> list[int]:
        """Return the index's terms that occur in the query.

        The tokenizer could do that as well, but it stores every word that it has seen, and is not thread-safe.
        """
        stem = Stemmer.Stemmer(self._settings.stemmer).stemWord if self._settings.stemmer else str
        words = [word for word in self._tokenizer.splitter(query.lower()) if word not in self._tokenizer.stopwords]
        return self._bm25.get_tokens_ids([stem(word) for word in words])


def _tokenizer(settings: Bm25Settings, unspaced: bool) -> Tokenizer:
    stemmer = Stemmer.Stemmer(settings.stemmer) if settings.stemmer else None
    splitter: dict[str, Any] = {"splitter": words_and_pairs} if unspaced else {}
    return Tokenizer(stemmer=stemmer, stopwords=settings.stopwords, **splitter)


def _build(corpus: Corpus, tokenizer: Tokenizer, backend: str, folder: Path) -> None:
    terms = list(tokenizer.streaming_tokenize(corpus.texts("Reading terms")))
    bm25 = bm25s.BM25(backend=backend)
    bm25.index((terms, tokenizer.get_vocab_dict()))
    bm25.save(folder, show_progress=False)
