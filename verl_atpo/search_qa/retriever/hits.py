"""Validation of answers to ``POST /retrieve``: each query's hits are checked independent of the others.

A hit is ``{"document": {"id", "contents"}, "score"}``, or only the document from servers that give no scores.
``contents`` is the title in quotes, a line break, the text.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
from typing import Any

import aiohttp

from verl_atpo.search_qa.retriever.unicode import valid_unicode

_SHOWN_CHARS = 200
_MOST_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Passage:
    """One hit.

    Attributes:
        contents: ``"Title"``, a line break, the text.
        id: the server's name of the passage; ``None`` without one.
        score: higher is better; ``None`` without one.
    """

    contents: str
    id: str | None = None
    score: float | None = None


Passages = tuple[Passage, ...]
"""Hits of one query, best first."""


async def body_of(response: aiohttp.ClientResponse) -> bytes:
    """Read the body of an answer from its stream.

    Raises:
        ValueError: it is longer than any valid answer.
    """
    try:
        await response.content.readexactly(_MOST_BYTES + 1)
    except asyncio.IncompleteReadError as end:
        return end.partial
    raise ValueError(f"got an answer of more than {_MOST_BYTES} bytes")


def parse_result(data: bytes, queries: int) -> list[Passages | ValueError]:
    """Parse the body of an answer.

    Args:
        data: JSON.
        queries: expected number of lists of hits.

    Returns:
        The passages of each query, or the error in its hits.

    Raises:
        ValueError: another form than this module describes.
    """
    try:
        body = json.loads(data)
    except RecursionError as error:
        raise ValueError(f"JSON nested too deeply ({error})") from None
    if not isinstance(body, dict) or not isinstance(body.get("result"), list):
        raise ValueError(f'expected {{"result": [[...], ...]}}, got {_shown(body)}')
    result = body["result"]
    if len(result) != queries:
        raise ValueError(f"expected one list of hits for each of {queries} queries, got {len(result)}")
    return [_hits_or_error(hits) for hits in result]


def _hits_or_error(hits: Any) -> Passages | ValueError:
    try:
        return _parse_hits(hits)
    except ValueError as error:
        return error
    except (RecursionError, OverflowError) as error:
        return ValueError(f"{type(error).__name__}: {error}")


def _parse_hits(hits: Any) -> Passages:
    if not isinstance(hits, list):
        raise ValueError(f"expected a list of hits, got {_shown(hits)}")
    return tuple(_parse_hit(hit) for hit in hits)


def _parse_hit(hit: Any) -> Passage:
    scored = isinstance(hit, dict) and "document" in hit
    document = hit["document"] if scored else hit
    if not isinstance(document, dict) or not isinstance(document.get("contents"), str):
        raise ValueError(f'expected a hit with a document that has "contents", got {_shown(hit)}')
    score = hit.get("score") if scored else None
    if score is not None and (
        isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score)
    ):
        raise ValueError(f"expected a finite number as score, got {_shown(score)}")
    name = document.get("id")
    contents = valid_unicode(document["contents"])
    return Passage(
        contents, None if name is None else valid_unicode(str(name)), None if score is None else float(score)
    )


def _shown(value: Any) -> str:
    try:
        return repr(value)[:_SHOWN_CHARS]
    except (RecursionError, ValueError):  # nested too deeply, or a number of too many digits
        return f"a {type(value).__name__}"
