"""The rows of a verl data file, written as a stream."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recipes.data.prompts import build_messages
from recipes.data.questions import Question

SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "ability": pa.string(),
        "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.struct({"target": pa.list_(pa.string())})}),
        "extra_info": pa.struct(
            {
                "split": pa.string(),
                "index": pa.int64(),
                "id": pa.string(),
                "question": pa.string(),
                "metadata": pa.string(),
            }
        ),
    }
)
_STAMP_KEY = b"verl_atpo.data_preprocess"
_ROW_GROUP = 2000


def build_row(question: Question, benchmark: str, split: str, index: int, style: str) -> dict[str, Any]:
    """One row; ``index`` counts the rows of the file that it goes into."""
    return {
        "data_source": benchmark,
        "prompt": build_messages(question.question, style),
        "ability": "qa",
        "reward_model": {"style": "rule", "ground_truth": {"target": question.golden_answers}},
        "extra_info": {
            "split": split,
            "index": index,
            "id": question.id,
            "question": question.question,
            "metadata": json.dumps(question.metadata, ensure_ascii=False),
        },
    }


def write_rows(rows: Iterable[dict[str, Any]], file: Path, stamp: dict[str, Any]) -> int:
    """Writes a parquet file row group by row group; under its own name it appears once it is complete.

    Args:
        rows: the rows; no more than one row group of them is in memory.
        file: the file to write.
        stamp: how the file was made, kept in its metadata.

    Returns:
        The number of rows.
    """
    schema = SCHEMA.with_metadata({_STAMP_KEY: json.dumps(stamp, sort_keys=True)})
    partial = file.with_name(f".{file.name}.partial")
    iterator, count = iter(rows), 0
    try:
        with pq.ParquetWriter(partial, schema) as writer:
            for group in _batches(iterator, _ROW_GROUP):
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                count += len(group)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
    return count


def read_stamp(file: Path) -> dict[str, Any] | None:
    """The stamp that ``write_rows`` left in a file; None if there is no file or no stamp in it."""
    if not file.exists():
        return None
    metadata = pq.read_schema(file).metadata or {}
    return json.loads(metadata[_STAMP_KEY]) if _STAMP_KEY in metadata else None


def _batches(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while batch := list(islice(rows, size)):
        yield batch
