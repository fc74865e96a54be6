"""Filters of the table: values of a URL, and their SQL."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from urllib.parse import urlencode

OUTCOMES = ("mixed", "equal", "failed")
TROUBLES = {
    "tool_errors": "a tool error",
    "outages": "an outage",
    "diverged": "a diverged replay",
    "regrown": "a trajectory grown again",
}
SORTABLE = (
    "step", "reward", "leaves", "nodes", "depth", "sampled_tokens", "saved", "tool_calls", "tool_errors", "outages",
    "diverged", "regrown", "seconds", "prompt", "outcome",
)  # fmt: skip
_WIDE = re.compile("([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])")
_WORD = re.compile(r"\w+")


@dataclasses.dataclass(frozen=True)
class Filters:
    """A choice of trees, and their order.

    Attributes:
        text: words that a tree's prompt or turns must hold; "in quotes": next to each other.
        outcome: one of :data:`OUTCOMES`, or empty for all.
        troubles: items of :data:`TROUBLES`; a tree must have had every one.
        step_from: first step, or ``None``.
        step_to: last step, or ``None``.
        source: the data source, or empty for all.
        prompt_key: the task, or empty for all.
        run: one of the folder's runs, or empty for all.
        sort: one of :data:`SORTABLE`.
        descending: highest first.
    """

    text: str = ""
    outcome: str = ""
    troubles: tuple[str, ...] = ()
    step_from: int | None = None
    step_to: int | None = None
    source: str = ""
    prompt_key: str = ""
    run: str = ""
    sort: str = "step"
    descending: bool = True

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Filters:
        """Read the filters of a URL's query; what is not understood is left out."""
        troubles = tuple(name for name in query.get("troubles", "").split(",") if name in TROUBLES)
        outcome, sort = query.get("outcome", ""), query.get("sort", "step")
        return cls(
            text=query.get("text", ""),
            outcome=outcome if outcome in OUTCOMES else "",
            troubles=troubles,
            step_from=_integer(query.get("step_from")),
            step_to=_integer(query.get("step_to")),
            source=query.get("source", ""),
            prompt_key=query.get("prompt_key", ""),
            run=query.get("run", ""),
            sort=sort if sort in SORTABLE else "step",
            descending=query.get("order", "down") != "up",
        )

    def to_query(self) -> str:
        """Write the query that :meth:`from_query` reads, without defaults."""
        query: dict[str, str] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default and field.name != "descending":
                query[field.name] = ",".join(value) if isinstance(value, tuple) else str(value)
        if not self.descending:
            query["order"] = "up"
        return urlencode(query)

    def where(self) -> tuple[str, list[object]]:
        """Write the SQL condition on the table ``trees``, and its parameters."""
        conditions, parameters = ["1"], list[object]()

        def add(condition: str, *values: object) -> None:
            conditions.append(condition)
            parameters.extend(values)

        if self.outcome:
            add("outcome = ?", self.outcome)
        for name in self.troubles:
            add(f"{name} > 0")
        if self.step_from is not None:
            add("step >= ?", self.step_from)
        if self.step_to is not None:
            add("step <= ?", self.step_to)
        if self.source:
            add("source = ?", self.source)
        if self.prompt_key:
            add("prompt_key = ?", self.prompt_key)
        if self.run:
            add("run = ?", self.run)
        if match := match_expression(self.text):
            add("id IN (SELECT rowid FROM words WHERE words MATCH ?)", match)
        return " AND ".join(conditions), parameters

    def order(self) -> str:
        """Write the SQL order; equal rows are ordered by age, so that there is one order only."""
        direction = "DESC" if self.descending else "ASC"
        return f"{self.sort} IS NULL, {self.sort} {direction}, step {direction}, id {direction}"


def searchable(text: str) -> str:
    """Prepare ``text`` for the index: every Chinese, Japanese or Korean character becomes a word."""
    return _WIDE.sub(r" \1 ", text)


def match_expression(text: str) -> str:
    """Turn what a user typed into an FTS5 query: all words, by their beginnings; quotes make a phrase."""
    parts = []
    for number, piece in enumerate(text.split('"')):
        words = _WORD.findall(searchable(piece))
        if number % 2:
            parts += [f'"{" ".join(words)}"'] if words else []
        else:
            parts += [f'"{word}"*' for word in words]
    return " AND ".join(parts)


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 16 else None
