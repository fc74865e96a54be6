"""The seven benchmarks of the paper, and which split of each the field trains and tests on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """One benchmark of the hub data set; ``name`` is its folder there and the ``data_source`` of its rows."""

    name: str
    task: str
    test_split: str


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("hotpotqa", "multihop", "dev"),
        Benchmark("2wikimultihopqa", "multihop", "dev"),
        Benchmark("musique", "multihop", "dev"),
        Benchmark("bamboogle", "multihop", "test"),
        Benchmark("nq", "singlehop", "test"),
        Benchmark("triviaqa", "singlehop", "test"),
        Benchmark("popqa", "singlehop", "test"),
    )
}

TRAIN_BENCHMARKS: dict[str, str] = {"multihop": "hotpotqa", "singlehop": "nq"}
"""The benchmark whose split ``train`` is the training set of a task."""


def select_benchmarks(names: list[str]) -> list[Benchmark]:
    """The benchmarks that are meant by ``all``, by a task or by their own names, in the paper's order.

    Raises:
        ValueError: a name that is none of these.
    """
    valid = ["all", *TRAIN_BENCHMARKS, *BENCHMARKS]
    if unknown := [name for name in names if name not in valid]:
        raise ValueError(f"--task: got {unknown}, expected any of {valid}")
    return [one for one in BENCHMARKS.values() if {"all", one.task, one.name} & set(names)]
