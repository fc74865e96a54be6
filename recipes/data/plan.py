"""Plan of the files to write: the training set of each task, and one test set of all benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recipes.data.benchmarks import BENCHMARKS, TRAIN_BENCHMARKS, Benchmark
from recipes.data.sources import Source, find_source, parse_file_option

TEST_FILE = "test.parquet"


@dataclass(frozen=True)
class Output:
    """One parquet file, and the sources whose questions it holds, in this order."""

    file_name: str
    sources: tuple[Source, ...]

    @property
    def is_train(self) -> bool:
        """Return whether it is a training set."""
        return self.file_name != TEST_FILE


def train_file(task: str) -> str:
    """Name of a task's training set."""
    return f"train_{task}.parquet"


def plan_outputs(benchmarks: list[Benchmark], root: str | None, files: list[str]) -> list[Output]:
    """The files to write; an output without sources is not among them.

    Args:
        benchmarks: the benchmarks to use.
        root: "hub", a folder, or None for nothing but ``files``.
        files: ``benchmark:split=path``, each instead of what ``root`` has. Split "train" goes into the training set,
            any other is the benchmark's test set.

    Raises:
        ValueError: a file of a benchmark that is not used, two for one purpose, or nothing to write.
        FileNotFoundError: a source is missing.
    """
    given = _given_sources(files, {benchmark.name for benchmark in benchmarks})

    def source(benchmark: str, split: str) -> list[Source]:
        purpose = benchmark, split == "train"
        if purpose in given:
            return [given[purpose]]
        return [find_source(benchmark, split, root)] if root else []

    names = [benchmark.name for benchmark in benchmarks]
    outputs = [
        Output(train_file(task), tuple(source(name, "train")))
        for task, name in TRAIN_BENCHMARKS.items()
        if name in names
    ]
    tests = [one for benchmark in benchmarks for one in source(benchmark.name, benchmark.test_split)]
    outputs = [output for output in (*outputs, Output(TEST_FILE, tuple(tests))) if output.sources]
    if not outputs:
        raise ValueError("nothing to write: none of the benchmarks of --task has a --source or a --file")
    return outputs


def _given_sources(files: list[str], names: set[str]) -> dict[tuple[str, bool], Source]:
    """(benchmark, is it for training) -> the file given for it."""
    given: dict[tuple[str, bool], Source] = {}
    for benchmark, split, path in map(parse_file_option, files):
        if benchmark not in names:
            remedy = "add it to --task" if benchmark in BENCHMARKS else f"benchmarks are {list(BENCHMARKS)}"
            raise ValueError(f"--file {benchmark}:{split}: got benchmark {benchmark!r}, expected one in use; {remedy}")
        if split == "train" and benchmark not in TRAIN_BENCHMARKS.values():
            trained = list(TRAIN_BENCHMARKS.values())
            raise ValueError(f"--file {benchmark}:train: training sets come from {trained}; name another split")
        if (benchmark, split == "train") in given:
            raise ValueError(f"--file {benchmark}:{split}: a second file for the same set; join the two or drop one")
        if not Path(path).is_file():
            raise FileNotFoundError(f"--file {benchmark}:{split}={path}: no such file")
        given[benchmark, split == "train"] = Source(benchmark, split, path)
    return given
