"""Dense retrieval: embeddings of any sentence-transformers model, searched by FAISS (inner product of unit vectors)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from sentence_transformers import SentenceTransformer

from verl_atpo.search_qa.retriever.artifacts import ServedFile, build_once, noted
from verl_atpo.search_qa.retriever.corpus import Corpus
from verl_atpo.search_qa.retriever.index import Hit
from verl_atpo.search_qa.retriever.settings import DenseSettings

logger = logging.getLogger(__name__)

_CHUNK = 4096  # passages embedded between two additions to the index
_INDEX = "index.faiss"


class Embedder:
    """Encoder of texts as unit vectors, float32 ``[texts, dim]``."""

    def __init__(self, settings: DenseSettings) -> None:
        self._model = SentenceTransformer(settings.model, device=settings.device)
        self._batch_size = settings.batch_size
        self._query_prefix, self._passage_prefix = settings.prefixes()
        self.dim = len(self.queries([""])[0])

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Encode queries."""
        return self._model.encode_query(list(texts), prompt=self._query_prefix, **self._how())

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """Encode passages."""
        return self._model.encode_document(list(texts), prompt=self._passage_prefix, **self._how())

    def _how(self) -> dict[str, Any]:
        return {"batch_size": self._batch_size, "normalize_embeddings": True, "show_progress_bar": False}


class DenseIndex:
    """Index of embeddings that finds the passages closest to a query.

    Args:
        corpus: the passages.
        index_dir: folder for the index.
        settings: model and kind of index.
        index_file: an existing FAISS index over this corpus, in its order and with this model (such as the published
            one of wiki-18 with E5); none is built then.

    Raises:
        ValueError: ``index_file`` cannot be read, or does not fit the corpus or the model.
        DamagedError: it has changed since it was first served.
    """

    method = "dense"

    def __init__(
        self, corpus: Corpus, index_dir: Path, settings: DenseSettings, index_file: Path | None = None
    ) -> None:
        self.model = settings.model
        self._embedder = Embedder(settings)
        if index_file is None:
            self._files = self._built(corpus, index_dir, settings)
            index_file = index_dir / self.method / _INDEX
        else:
            self._files = [noted(index_file, index_dir / f"{index_file.name}.checksum.json")]
        self._index = _read(index_file)
        self._check(index_file, len(corpus))
        if isinstance(self._index, faiss.IndexIVF):
            self._index.nprobe = settings.nprobe

    def check(self) -> None:
        """Raise ``DamagedError`` if the file of the index has changed."""
        for file in self._files:
            file.check()

    def search(self, queries: Sequence[str], topk: int) -> list[list[Hit]]:
        """Return the ``topk`` closest passages of each query, best first (fewer if an IVF index finds fewer)."""
        scores, places = self._index.search(self._embedder.queries(queries), min(topk, self._index.ntotal))
        return [
            [(int(place), float(score)) for place, score in zip(*found, strict=True) if place >= 0]
            for found in zip(places, scores, strict=True)
        ]

    def _built(self, corpus: Corpus, index_dir: Path, settings: DenseSettings) -> list[ServedFile]:
        _, passage_prefix = settings.prefixes()
        fingerprint = {
            "corpus": corpus.fingerprint,
            "model": settings.model,
            "factory": settings.factory,
            "passage_prefix": passage_prefix,
            "train_passages": settings.train_passages,
        }
        return build_once(
            index_dir / self.method, fingerprint, lambda folder: _build(corpus, self._embedder, settings, folder)
        )

    def _check(self, index_file: Path, passages: int) -> None:
        found = (self._index.ntotal, self._index.d)
        if found != (passages, self._embedder.dim):
            raise ValueError(
                f"{index_file}: got {found[0]} vectors of size {found[1]}, expected {passages} (passages of the "
                f"corpus) of size {self._embedder.dim} (model {self.model}); give the corpus and model it was made with"
            )
        if self._index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError(f"{index_file}: expected an index made for inner products; rebuild it without the file")


def _read(index_file: Path) -> Any:
    try:
        return faiss.read_index(str(index_file), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{index_file}: not a FAISS index, or damaged ({reason}); fetch it again, or leave --index-file out to "
            "have one built"
        ) from error


def _build(corpus: Corpus, embedder: Embedder, settings: DenseSettings, folder: Path) -> None:
    index = faiss.index_factory(embedder.dim, settings.factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        places = np.linspace(0, len(corpus) - 1, min(settings.train_passages, len(corpus)), dtype=np.int64)
        logger.info("Training %s on %d passages", settings.factory, len(places))
        index.train(embedder.passages([corpus[int(place)]["contents"] for place in places]))
    for texts in _chunks(corpus.texts("Embedding")):
        index.add(embedder.passages(texts))
    faiss.write_index(index, str(folder / _INDEX))


def _chunks(texts: Iterator[str]) -> Iterator[list[str]]:
    while chunk := list(islice(texts, _CHUNK)):
        yield chunk
