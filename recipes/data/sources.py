"""Sources of the questions: the hub, a folder laid out like it, or single files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import load_dataset

HUB = "hf://datasets/RUC-NLPIR/FlashRAG_datasets"


@dataclass(frozen=True)
class Source:
    """One JSONL file: a split of a benchmark.

    Attributes:
        benchmark: name of the benchmark.
        split: its split.
        location: a path, or an address that begins with ``hf://``.
    """

    benchmark: str
    split: str
    location: str

    @property
    def is_local(self) -> bool:
        """Return whether it is on this machine."""
        return "://" not in self.location

    def lines(self) -> Iterator[str]:
        """The file's lines, read as they are needed."""
        if self.is_local:
            with open(self.location, encoding="utf-8") as file:
                yield from file
        else:
            # As plain text: what is in `metadata` differs between rows, which the reader for JSON does not take.
            for row in load_dataset("text", data_files=self.location, split="train", streaming=True):
                yield row["text"]

    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies the source: its address; of a local file also size and time."""
        fingerprint: dict[str, Any] = {"benchmark": self.benchmark, "split": self.split, "location": self.location}
        if self.is_local:
            stat = Path(self.location).stat()
            fingerprint |= {"location": str(Path(self.location).resolve()), "bytes": stat.st_size}
            fingerprint["modified_ns"] = stat.st_mtime_ns
        return fingerprint


def parse_file_option(text: str) -> tuple[str, str, str]:
    """``benchmark:split=path`` as its three parts.

    Raises:
        ValueError: another form.
    """
    name, _, path = text.partition("=")
    benchmark, _, split = name.partition(":")
    if not (benchmark and split and path):
        raise ValueError(f"--file: got {text!r}, expected benchmark:split=path, as in hotpotqa:dev=questions.jsonl")
    return benchmark, split, path


def find_source(benchmark: str, split: str, root: str) -> Source:
    """A split of a benchmark below ``root``.

    Args:
        benchmark: name of the benchmark.
        split: its split.
        root: "hub", or a folder.

    Raises:
        FileNotFoundError: the folder does not hold it.
    """
    location = f"{HUB if root == 'hub' else root}/{benchmark}/{split}.jsonl"
    source = Source(benchmark, split, location)
    if source.is_local and not Path(location).is_file():
        raise FileNotFoundError(
            f"{location}: no such file; put split {split!r} of {benchmark} there, name it with --file "
            f"{benchmark}:{split}=PATH, or choose other benchmarks with --task"
        )
    return source
