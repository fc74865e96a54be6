"""Blocks of text as HTML. Everything goes through ``Markup.escape``; nothing that a model wrote is ever markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from verl_atpo.view.colors import ColorBy, heat, shade
from verl_atpo.view.diff import Change, compare
from verl_atpo.view.text import visible, without_template

LONGEST = 20_000
"""Characters of a text that are shown at first."""


def text_block(text: str, template: Sequence[str], *, raw: bool = False, whole: bool = False) -> Markup:
    """A turn or an observation.

    Args:
        text: as it was decoded.
        template: the tokenizer's special tokens.
        raw: with the chat template.
        whole: all of it, however long it is.
    """
    shown = text if raw else without_template(text, template)
    return Markup("<pre class='words'>{}</pre>{}").format(*_cut(shown, whole))


def _cut(text: str, whole: bool) -> tuple[str, Markup]:
    if whole or len(text) <= LONGEST:
        return visible(text), Markup()
    left = Markup("<div class='left-out'>{} of {} characters are not shown</div>")
    return visible(text[:LONGEST]), left.format(f"{len(text) - LONGEST:,}", f"{len(text):,}")


def pieces(node: Mapping[str, Any]) -> list[str] | None:
    """The text of every sampled token; ``None``: not known."""
    chars, text = node.get("token_chars"), node.get("text", "")
    if not chars or sum(chars) != len(text):
        return None
    found, at = [], 0
    for length in chars:
        found.append(text[at : at + length])
        at += length
    return found


def heat_block(node: Mapping[str, Any], whole: bool = False) -> Markup | None:
    """The tokens of a turn, the darker the less sure the policy was; ``None``: the dump does not say."""
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
    """Two texts, in each what the other has not."""
    changes = compare(visible(one[:LONGEST]), visible(other[:LONGEST]))
    return _side(changes, lambda change: change.left, "del"), _side(changes, lambda change: change.right, "ins")


def _side(changes: Iterable[Change], text: Any, tag: str) -> Markup:
    marked = Markup(f"<{tag}>{{}}</{tag}>")
    parts = [escape(text(each)) if each.equal else marked.format(text(each)) for each in changes if text(each)]
    return Markup("<pre class='words'>{}</pre>").format(Markup().join(parts))


def row_block(segments: Iterable[Any], scale: float) -> Markup:
    """The row of a leaf as the trainer got it: trained tokens coloured by advantage, masked ones grey.

    Args:
        segments: from :func:`verl_atpo.view.row.segments`.
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
