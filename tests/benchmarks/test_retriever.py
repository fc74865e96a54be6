"""Retrieval quality on real questions and passages; the floors stand far above chance (3 of 349 passages)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.retriever.quality import Quality, measure
from tests.assets.qa_data import real_data
from tests.assets.retriever_data import QA_DATA, minilm_folder
from verl_atpo.search_qa.retriever.corpus import Corpus

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("method", "floor"), [("bm25", 0.45), ("dense", 0.39)])
def test_recall_at_3_of_the_listed_passages(method: str, floor: float) -> None:
    files = [f"--{kind}={real_data(f'multihop_mini_{kind}.jsonl')}" for kind in ("corpus", "questions")]
    assert minilm_folder() is not None  # in the extra `test`
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.retriever.quality", "--methods", method, *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["method"], said["k"], said["questions"]) == (method, 3, 46)
    assert said["recall"] >= floor
    assert said["any"] >= 0.95


def test_the_measures_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(json.dumps({"contents": f'"T{n}"\nx'}) for n in range(4)))

    class Fixed:
        method, model = "fixed", None

        def search(self, queries: list[str], topk: int) -> list[list[tuple[int, float]]]:
            return [[(0, 1.0), (1, 1.0)], [(2, 1.0), (3, 1.0)]]

    questions = [
        {"question": "", "metadata": {"context_titles": ["T0", "T1", "T2", "T3"]}},
        {"question": "", "metadata": {"context_titles": ["T3"]}},
    ]
    # first: 2 of 4 listed, 2 of the 2 that fit; second: 1 of 1, 1 of the 1 that is listed
    assert measure(Corpus(path, tmp_path), Fixed(), questions, 2) == Quality(recall=0.75, attained=1.0, any=1.0)


@pytest.mark.parametrize("benchmark", ["quality", "load"])
def test_without_data_it_says_what_to_give(benchmark: str) -> None:
    left_out = (QA_DATA, "PYTHONPATH")  # where tests make its end quick, Python has last words of its own
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    command = [sys.executable, "-m", f"benchmarks.retriever.{benchmark}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and QA_DATA in done.stderr.splitlines()[-1]
