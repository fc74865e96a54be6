"""``python -m benchmarks.retriever.quality``: how many of the listed passages are among the best k."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from tests.assets.retriever_data import QA_DATA, data_file, minilm_folder, read_questions
from verl_atpo.search_qa.retriever.bm25 import Bm25Index, Bm25Settings
from verl_atpo.search_qa.retriever.corpus import Corpus
from verl_atpo.search_qa.retriever.index import PassageIndex


@dataclasses.dataclass(frozen=True)
class Quality:
    """Means over the questions; a question lists more titles than k, so recall at k cannot reach 1.

    Attributes:
        recall: listed titles among the best k, of all that are listed.
        attained: the same, of the most that k passages can hold.
        any: share of the questions with a listed title among the best k.
    """

    recall: float
    attained: float
    any: float


def measure(corpus: Corpus, index: PassageIndex, questions: list[dict], topk: int) -> Quality:
    """Quality of ``index``, asked the questions as they are."""
    found = index.search([row["question"] for row in questions], topk)
    recalls, attained, any_found = [], [], []
    for row, hits in zip(questions, found, strict=True):
        listed = set(row["metadata"]["context_titles"])
        titles = {corpus[place]["contents"].split("\n", 1)[0].strip('"') for place, _ in hits}
        count = len(listed & titles)
        recalls.append(count / len(listed))
        attained.append(count / min(topk, len(listed)))
        any_found.append(count > 0)
    size = len(questions)
    return Quality(sum(recalls) / size, sum(attained) / size, sum(any_found) / size)


def open_index(method: str, corpus: Corpus, index_dir: Path, model: str) -> PassageIndex:
    """The index of a method with its default settings."""
    if method == "bm25":
        return Bm25Index(corpus, index_dir, Bm25Settings())
    from verl_atpo.search_qa.retriever.dense import DenseIndex, DenseSettings

    return DenseIndex(corpus, index_dir, DenseSettings(model=model, device="cpu"))


def main() -> int:
    """Print one line per method."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retriever.quality", description=__doc__)
    parser.add_argument("--corpus", type=Path, default=data_file("corpus"), help=f"passages (default: of {QA_DATA})")
    parser.add_argument(
        "--questions", type=Path, default=data_file("questions"), help=f"with metadata.context_titles ({QA_DATA})"
    )
    parser.add_argument("--methods", nargs="+", default=["bm25", "dense"], choices=["bm25", "dense"])
    parser.add_argument("--model", default=str(minilm_folder() or "sentence-transformers/all-MiniLM-L6-v2"))
    parser.add_argument("--topk", type=int, default=3)
    options = parser.parse_args()
    if None in (options.corpus, options.questions):
        parser.error(f"give --corpus and --questions, or a folder that has both in {QA_DATA}")
    questions = read_questions(options.questions)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(options.corpus, Path(folder))
        for method in options.methods:
            index = open_index(method, corpus, Path(folder), options.model)
            quality = measure(corpus, index, questions, options.topk)
            rounded = {key: round(value, 4) for key, value in dataclasses.asdict(quality).items()}
            print(json.dumps({"method": method, "k": options.topk, "questions": len(questions), **rounded}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
