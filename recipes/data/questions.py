"""Questions in FlashRAG's JSONL schema, read line by line and checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

PASSAGE_FIELDS = frozenset({"context", "contexts", "paragraphs"})
"""Left out of the metadata: the passages that came with a question would travel with every rollout of its row."""


@dataclass(frozen=True)
class Question:
    """One question of a benchmark."""

    id: str
    question: str
    golden_answers: list[str]
    metadata: dict[str, Any]


class SchemaError(ValueError):
    """A row that is not in the schema; says which file, row and field, and what was found and expected there."""


def parse_questions(lines: Iterable[str], origin: str, benchmark: str) -> Iterator[Question]:
    """The questions in JSONL text; blank lines are passed over.

    Rows of a merged file have a ``data_source``: those of other benchmarks are passed over too.

    Args:
        lines: the file's lines.
        origin: name of the file, for errors.
        benchmark: name of the benchmark.

    Raises:
        SchemaError: a row that is not in the schema.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{origin}, row {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise SchemaError(f"{where}: got {_shorten(line)}, expected one JSON object ({error})") from error
        if not isinstance(row, dict):
            raise SchemaError(f"{where}: got {_shorten(row)}, expected one JSON object")
        if row.get("data_source", benchmark) == benchmark:
            yield parse_row(row, where)


def parse_row(row: dict[str, Any], where: str) -> Question:
    """Checks one row.

    Args:
        row: the JSON object.
        where: file and row, for errors.

    Raises:
        SchemaError: a field that is missing or not as expected.
    """
    answers, metadata = row.get("golden_answers"), row.get("metadata")
    checks = (
        ("id", isinstance(row.get("id"), str | int), "a string or a number"),
        ("question", _is_text(row.get("question")), "a string that is not blank"),
        (
            "golden_answers",
            isinstance(answers, list) and bool(answers) and all(map(_is_text, answers)),
            "a list of at least one string, none of them blank",
        ),
        ("metadata", metadata is None or isinstance(metadata, dict), "an object, null or no such field"),
    )
    for field, valid, expected in checks:
        if not valid:
            found = _shorten(row[field]) if field in row else "no such field"
            raise SchemaError(f"{where}, field {field!r}: got {found}, expected {expected}; correct or remove the row")
    kept = {key: value for key, value in (metadata or {}).items() if key not in PASSAGE_FIELDS}
    return Question(str(row["id"]), row["question"].strip(), list(answers or ()), kept)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _shorten(value: Any, length: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
