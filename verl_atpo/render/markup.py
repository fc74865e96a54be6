"""Blocks of text as HTML. Everything is escaped by ``markupsafe``; no text of a dump ever becomes markup."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from verl_atpo.render.colors import ColorBy, heat, shade
from verl_atpo.render.diff import Change, compare
from verl_atpo.render.text import visible, without_template
from verl_atpo.render.trajectory import Event

LONGEST = 20_000
"""Characters of a text that are shown at first."""


def text_block(text: str, template: Sequence[str], *, raw: bool = False, whole: bool = False) -> Markup:
    """Render a turn or an observation.

    Args:
        text: as it was decoded.
        template: the tokenizer's special tokens.
        raw: with the chat template.
        whole: all of it, however long it is.
    """
    shown = text if raw else without_template(text if whole else text[: 4 * LONGEST], template)
    if whole or len(shown) <= LONGEST:
        return Markup("<pre class='words'>{}</pre>").format(visible(shown))
    cut = Markup("<pre class='words'>{}</pre><div class='left-out'>{} of {} characters are not shown</div>")
    return cut.format(visible(shown[:LONGEST]), f"{len(text) - LONGEST:,}", f"{len(text):,}")


def tag(name: str, css: str, text: object) -> Markup:
    """Render a text in an element of our own.

    Args:
        name: name of the element.
        css: its classes.
        text: is escaped.
    """
    return Markup("<{0} class='{1}'>{2}</{0}>").format(Markup(name), css, visible(str(text)))


def pieces(node: Mapping[str, Any]) -> list[str] | None:
    """Split a turn's text into its sampled tokens; ``None``: not known."""
    chars, text = node.get("token_chars"), node.get("text", "")
    if not chars or sum(chars) != len(text):
        return None
    found, at = [], 0
    for length in chars:
        found.append(text[at : at + length])
        at += length
    return found


def heat_block(node: Mapping[str, Any], whole: bool = False) -> Markup | None:
    """Render the tokens of a turn, darker with rising NLL; ``None``: the dump does not say."""
    tokens, nlls = pieces(node), node.get("token_nll_centinats")
    if tokens is None or not nlls or len(nlls) != len(tokens):
        return None
    span = Markup("<span style='background:{}' title='{} nats'>{}</span>")
    spans, length = [], 0
    for token, nll in zip(tokens, nlls, strict=True):
        length += len(token)
        if length > LONGEST and not whole:
            break
        spans.append(span.format(heat(nll / 100), f"{nll / 100:.2f}", visible(token)))
    return Markup("<pre class='words'>{}</pre>").format(Markup().join(spans))


def diff_blocks(one: str, other: str) -> tuple[Markup, Markup]:
    """Render two texts, each with marks on the words that the other lacks."""
    changes = compare(visible(one[:LONGEST]), visible(other[:LONGEST]))
    return _side(changes, lambda change: change.left, "del"), _side(changes, lambda change: change.right, "ins")


def _side(changes: Iterable[Change], text: Callable[[Change], str], name: str) -> Markup:
    marked = Markup("<{0}>{{}}</{0}>").format(Markup(name))
    parts = [escape(text(each)) if each.equal else marked.format(text(each)) for each in changes if text(each)]
    return Markup("<pre class='words'>{}</pre>").format(Markup().join(parts))


def row_block(segments: Iterable[Any], scale: float) -> Markup:
    """Render a trajectory as the trainer got it: trained tokens coloured by advantage, masked ones grey.

    Args:
        segments: from :func:`verl_atpo.render.trajectory.segments`.
        scale: advantage of full colour.
    """
    span = Markup("<span class='{}' style='background:{}' title='{}'>{}</span>")
    spans = []
    for segment in segments:
        fill = "transparent"
        if segment.trained and segment.advantage is not None:
            fill = shade(max(-1.0, min(1.0, segment.advantage / scale)), ColorBy.ADVANTAGE).fill
        kind = "trained" if segment.trained else "masked"
        spans.append(span.format(kind, fill, segment.title, visible(segment.text[:LONGEST])))
    return Markup("<pre class='words row-of-leaf'>{}</pre>").format(Markup().join(spans))


def dot(color: str) -> Markup:
    """Render a dot of a colour."""
    return Markup("<span class='dot' style='background:{}'></span>").format(color)


def transcript_block(events: Iterable[Event], words: Mapping[int, Sequence[str]], template: Sequence[str]) -> Markup:
    """Render a trajectory's events in order: what the policy said, what was answered, how it ended.

    Args:
        events: from :func:`verl_atpo.render.trajectory.transcript`.
        words: by node further lines of a turn, such as its advantage in words.
        template: the tokenizer's special tokens.
    """
    parts = []
    for event in events:
        kind = f"event {event.kind}" + (" failed-event" if event.failed else "")
        below = [tag("div", "faint", each) for each in words.get(-1 if event.node is None else event.node, ())]
        text = text_block(event.text, template) if event.text else Markup()
        title = visible(event.title[:300])
        parts.append(Markup("<div class='{}'><div class='event-title'>{}</div>{}{}</div>").format(
            kind, title, Markup().join(below), text))  # fmt: skip
    return Markup("<div class='transcript'>{}</div>").format(Markup().join(parts))


def sparkline(points: Sequence[tuple[int, float]], color: str, width: int = 110, height: int = 26) -> Markup:
    """Render the course of a figure as a line without axes."""
    values = [value for _, value in points]
    if len(values) < 2:
        return Markup()
    low, high = min(values), max(values)
    line = " ".join(
        f"{width * at / (len(values) - 1):.1f},{height - 3 - (height - 6) * ((value - low) / (high - low or 1.0)):.1f}"
        for at, value in enumerate(values)
    )
    return Markup(
        "<svg width='{0}' height='{1}' viewBox='0 0 {0} {1}'>"
        "<polyline points='{2}' fill='none' stroke='{3}' stroke-width='1.5'/></svg>"
    ).format(width, height, line, color)
