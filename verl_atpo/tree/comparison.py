"""Comparison of an agent loop's rows with the record of what was sampled, token by token.

A row is sound if it holds exactly the ids of the engine's requests and answers:

- prompt and response, up to the last sampled token, are the context of the last turn and that turn;
- the mask is 1 on the sampled tokens and 0 on all others;
- there is one log-prob a token, and those of sampled tokens are the engine's;
- tokens after the last turn have the mask 0;
- sampled tokens are missing only where the response has its full length.

A loop that replaces its context instead of appending to it leaves a record of several :mod:`stretches
<verl_atpo.tree.stretches>`, each append-only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from verl_atpo.failure import ContextRewrittenError, NothingSampledError, RowMismatchError
from verl_atpo.tree.conversations import context_key
from verl_atpo.tree.media import media_difference
from verl_atpo.tree.recording import Generation, Turn, common_length, contexts_of, group_turns
from verl_atpo.tree.stretches import Stretch, stretches

REMEDY = (
    "Remedy: append output.token_ids (mask 1) and the tokens of the observation (mask 0) to the ids that you asked "
    "with, and return exactly these ids; do not render or tokenize earlier turns again."
)


class Place(NamedTuple):
    """Place of a turn in the trained rows.

    Attributes:
        row: number of the row, from 0.
        start: index in the row's response of its first token. At or after the response's end: it was cut off.
    """

    row: int
    start: int


def check_tree_rows(
    generations: Sequence[Generation], outputs: Sequence[Any], response_length: int | None = None
) -> list[Place]:
    """Check the rows of a trajectory of a tree; missing log-probs are filled in from the record.

    One row holds a whole stretch, or some of its turns with the context of the first of them as its prompt. Every turn
    is in one row.

    Args:
        generations: generations of the trajectory, in order.
        outputs: outputs that the loop returned, each with the fields of verl's ``AgentLoopOutput``.
        response_length: tokens at which a response is cut off; ``None`` if it never is.

    Returns:
        The place of each turn.

    Raises:
        NothingSampledError: the loop did not ask the model.
        ContextRewrittenError: it replaced its context, and returned one output.
        RowMismatchError: a row is not what was sampled, or turns are in no row; names the first token that differs.
    """
    if len(outputs) == 1:
        found = [Place(0, start) for start in check_tree_row(generations, outputs[0], response_length)]
        _check_media(generations, outputs, found)
        return found
    places = _places(generations, outputs, response_length)
    lost = next((turn for turn in range(len(group_turns(generations))) if turn not in places), None)
    if lost is not None:
        raise RowMismatchError(
            f"Turn {lost + 1} is in none of the {len(outputs)} outputs of the agent loop, so it would be credited and "
            "never trained. Return an output for every stretch of turns in which the context was only added to."
        )
    found = [places[turn] for turn in range(len(places))]
    _check_media(generations, outputs, found)
    return found


def _places(generations: Sequence[Generation], outputs: Sequence[Any], response_length: int | None) -> dict[int, Place]:
    """Find the turn that each run of ones in the masks is, by its number; each turn is in one row at most.

    A turn that a full response cut off counts as in it.
    """
    contexts = {id(one): context for one, context in zip(generations, contexts_of(generations), strict=True)}
    turns = [(contexts[id(turn.generations[0])], turn) for turn in group_turns(generations)]
    by_context: dict[bytes, list[int]] = {}
    for number, (context, _) in enumerate(turns):
        by_context.setdefault(context_key(context, ()), []).append(number)
    places: dict[int, Place] = {}
    for row, output in enumerate(outputs):
        full = response_length is not None and len(output.response_ids) >= response_length
        runs = _runs(output)
        for start, end in runs:
            before = [*output.prompt_ids, *output.response_ids[:start]]
            found = [
                number
                for number in by_context.get(context_key(before, ()), ())
                if _is_turn(turns[number][1], output, start, end, full)
            ]
            free = next((number for number in found if number not in places), None)
            if free is None:
                _refuse_output(generations, output, row + 1, response_length, twice=bool(found))
            else:
                places[free] = Place(row, start)
        if not runs:
            _refuse_output(generations, output, row + 1, response_length, twice=False)
        _fill_in(output, {start: turns[number][1] for number, (at, start) in places.items() if at == row})
    return _with_cut_turns(turns, outputs, response_length, places)


def _runs(output: Any) -> list[tuple[int, int]]:
    """List the runs of ones in a response's mask: the first index of each, and the first one after it."""
    mask = [0, *output.response_mask, 0]
    if len(output.response_mask) != len(output.response_ids):
        return []
    edges = [at for at in range(len(mask) - 1) if bool(mask[at]) != bool(mask[at + 1])]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _is_turn(turn: Turn, output: Any, start: int, end: int, full: bool) -> bool:
    """Return whether a run of a row is a turn: its tokens, and its log-probs if the row has any."""
    tokens, length = turn.token_ids, end - start
    cut = full and end == len(output.response_ids)
    if list(output.response_ids[start:end]) != tokens[:length] or not (length == len(tokens) or cut):
        return False
    given, recorded = _given_log_probs(output), turn.log_probs
    if given is None or recorded is None:
        return True
    return len(given) == len(output.response_ids) and all(map(_equal, given[start:end], recorded))


def _with_cut_turns(
    turns: Sequence[tuple[list[int], Turn]],
    outputs: Sequence[Any],
    response_length: int | None,
    places: dict[int, Place],
) -> dict[int, Place]:
    """Return the places, with those of turns whose context begins with a row that has its full length."""
    for number, (context, _) in enumerate(turns):
        for row, output in enumerate(outputs):
            full = response_length is not None and len(output.response_ids) >= response_length
            ids = [*output.prompt_ids, *output.response_ids]
            if number not in places and full and context[: len(ids)] == ids:
                places[number] = Place(row, len(context) - len(output.prompt_ids))
    return places


def _fill_in(output: Any, turns: Mapping[int, Turn]) -> None:
    """Put the record's log-probs of a row's turns, by their starts, where the loop returned none."""
    if not hasattr(output, "response_logprobs") or _given_log_probs(output) is not None:
        return
    if any(turn.log_probs is None for turn in turns.values()):
        return
    filled = [0.0] * len(output.response_ids)
    for start, turn in turns.items():
        log_probs = (turn.log_probs or [])[: len(filled) - start]
        filled[start : start + len(log_probs)] = log_probs
    output.response_logprobs = filled


def _refuse_output(
    generations: Sequence[Generation], output: Any, number: int, response_length: int | None, twice: bool
) -> NoReturn:
    """Refuse an output of several, with the first token that differs from the stretch that it is nearest to."""
    if not twice:
        _check(max(_parts(generations), key=lambda part: _common(part, output)), output, response_length)
    raise RowMismatchError(f"Output {number} of the agent loop has turns that an earlier output has. {REMEDY}")


def check_tree_row(generations: Sequence[Generation], output: Any, response_length: int | None = None) -> list[int]:
    """Check the one row of a trajectory of a tree that only appends; arguments are those of :func:`check_tree_rows`.

    Returns:
        Index in the response of each turn's first token. One at or after the response's end: the turn was cut off.
    """
    parts = _parts(generations)
    if len(parts) > 1:
        raise ContextRewrittenError(_rewritten(parts[0], parts[1]))
    (part,) = parts
    _check(part, output, response_length)
    shift = len(output.prompt_ids)
    if shift != part.prompt_tokens:
        raise RowMismatchError(
            f"The agent loop returned a prompt of {shift} tokens, but asked for the first turn with "
            f"{part.prompt_tokens}. A response begins with the first sampled token: return the ids of the first "
            "generate() as prompt_ids."
        )
    _check_separated(part)
    _fill_log_probs(part, output)
    return [start - shift for start in part.starts]


def _check_separated(part: Stretch) -> None:
    for turn, start in zip(part.turns[1:], part.starts[1:], strict=True):
        if part.sampled[start - 1]:
            raise RowMismatchError(
                f"Nothing separates turn {turn + 1} from the turn before in the agent loop's context, so the mask "
                "would show them as one. " + REMEDY
            )


def check_chain_rows(
    generations: Sequence[Generation], outputs: Sequence[Any], response_length: int | None = None
) -> list[Place]:
    """Check the rows of a chain, each an append-only stretch; a loop may replace its context, and leave stretches out.

    Args, log-probs and exceptions are those of :func:`check_tree_row`.

    Returns:
        The place of each turn; that of a turn in none of the rows is the end of the last row.
    """
    places: dict[int, Place] = {}
    if len(outputs) > 1:
        places = _places(generations, outputs, response_length)
    elif outputs:
        places = _places_in_one(generations, outputs[0], response_length)
    lost = Place(max(0, len(outputs) - 1), len(outputs[-1].response_ids) if outputs else 0)
    found = [places.get(turn, lost) for turn in range(len(group_turns(generations)))]
    _check_media(generations, outputs, found)
    return found


def _check_media(generations: Sequence[Generation], outputs: Sequence[Any], places: Sequence[Place]) -> None:
    """Refuse a row whose pictures or sounds are not those that its last turn was sampled with."""
    last = {}
    for turn, place in zip(group_turns(generations), places, strict=True):
        if place.start < len(outputs[place.row].response_ids):
            last[place.row] = turn.generations[-1].media
    for row, media in last.items():
        if media and (difference := media_difference(media, getattr(outputs[row], "multi_modal_data", None))):
            raise RowMismatchError(
                f"The agent loop returned a row that is not what was sampled: {difference}. Remedy: return what was "
                'given to generate(), as multi_modal_data={"images": ...}.'
            )


def _places_in_one(generations: Sequence[Generation], output: Any, response_length: int | None) -> dict[int, Place]:
    """Find the turns of the one row of a chain, by their numbers."""
    parts = _parts(generations)
    part = next((part for part in parts if _difference(part, output, response_length) is None), None)
    if part is None:
        part = max(parts, key=lambda part: _common(part, output))
        _check(part, output, response_length)
    _fill_log_probs(part, output)
    shift = len(output.prompt_ids)
    return {turn: Place(0, start - shift) for turn, start in zip(part.turns, part.starts, strict=True)}


def _parts(generations: Sequence[Generation]) -> list[Stretch]:
    if not generations:
        raise NothingSampledError(
            "The agent loop ended without asking the model, so there is nothing to train on. Remedy: where its "
            "environment did not come up, raise verl_atpo.tools.ToolOutage, and the trajectory is run again; else call "
            "server_manager.generate at least once."
        )
    return stretches(generations)


def _check(part: Stretch, output: Any, response_length: int | None) -> None:
    difference = _difference(part, output, response_length)
    if difference is not None:
        raise RowMismatchError(
            f"The agent loop returned a row that is not what was sampled: {difference}. Training on it would not be "
            f"on-policy. {REMEDY}"
        )


def _difference(part: Stretch, output: Any, response_length: int | None) -> str | None:
    """Describe where a row first differs from what was sampled; ``None`` if it does not."""
    prompt, response, mask = list(output.prompt_ids), list(output.response_ids), list(output.response_mask)
    if len(prompt) > part.prompt_tokens:
        return f"prompt_ids has {len(prompt)} tokens, the first turn was asked for with {part.prompt_tokens}"
    if len(mask) != len(response):
        return f"response_mask has {len(mask)} entries for {len(response)} response_ids"
    row, shift = prompt + response, len(prompt)
    length = min(len(row), len(part.token_ids))
    if row[:length] != part.token_ids[:length]:
        at = next(at for at in range(length) if row[at] != part.token_ids[at])
        did = "sampled" if part.sampled[at] else "was asked with"
        return f"{_place(part, at, shift)} is {row[at]!r}, the engine {did} {part.token_ids[at]!r}"
    expected = (part.sampled[shift:] + [0] * len(row))[: len(mask)]
    if mask != expected:
        at = next(at for at, (own, right) in enumerate(zip(mask, expected, strict=True)) if own != right)
        sampled = "was sampled" if expected[at] else "was not sampled"
        return f"{_place(part, at + shift, shift)} has the mask {mask[at]!r}, but {sampled}"
    if len(row) < len(part.token_ids) and (response_length is None or len(response) < response_length):
        return (
            f"the response ends after {len(response)} tokens, but {sum(part.sampled[len(row) :])} more were sampled, "
            f"the first of them in turn {_turn(part, part.sampled.index(1, len(row)))}, and a response is cut off "
            + ("nowhere" if response_length is None else f"at {response_length} tokens only")
        )
    return _log_prob_difference(part, output, shift)


def _log_prob_difference(part: Stretch, output: Any, shift: int) -> str | None:
    given = _given_log_probs(output)
    if given is None:
        return None
    if len(given) != len(output.response_ids):
        return f"response_logprobs has {len(given)} entries for {len(output.response_ids)} response_ids"
    for at, (log_prob, sampled) in enumerate(zip(given, part.sampled[shift:], strict=False)):
        recorded = part.log_probs[at + shift] if part.log_probs is not None else log_prob
        if sampled and not _equal(log_prob, recorded):
            return f"{_place(part, at + shift, shift)} has the log-prob {log_prob!r}, the engine returned {recorded!r}"
    return None


def _given_log_probs(output: Any) -> Sequence[Any] | None:
    given = getattr(output, "response_logprobs", None)
    return None if given is None or not len(given) else given


def _equal(log_prob: Any, recorded: float) -> bool:
    """Return whether a log-prob is the recorded one, up to a loop's conversion to float32."""
    try:
        return math.isclose(log_prob, recorded, rel_tol=1e-5, abs_tol=1e-6)
    except TypeError:
        return False


def _fill_log_probs(part: Stretch, output: Any) -> None:
    if hasattr(output, "response_logprobs") and _given_log_probs(output) is None and part.log_probs is not None:
        length, shift = len(output.response_ids), len(output.prompt_ids)
        output.response_logprobs = (part.log_probs[shift:] + [0.0] * length)[:length]


def _common(part: Stretch, output: Any) -> int:
    """Count the leading tokens of a row that are those of a stretch."""
    return common_length([*output.prompt_ids, *output.response_ids], part.token_ids)


def _rewritten(before: Stretch, after: Stretch) -> str:
    pairs = enumerate(zip(before.token_ids, after.token_ids, strict=False))
    shorter = min(len(before.token_ids), after.prompt_tokens)
    at = next((at for at, (old, new) in pairs if old != new), shorter)
    old = before.token_ids[at] if at < len(before.token_ids) else "nothing"
    new = after.token_ids[at] if at < after.prompt_tokens else "nothing"
    return (
        f"The agent loop replaced its context before turn {after.turn}: token {at} was {old} and is {new} now, so turn "
        f"{after.turn - 1} is no longer in it as it was sampled. A loop that rewrites its context on purpose has "
        "to return an output for every stretch of turns in which it only added to it. For others: "
        f"{REMEDY[len('Remedy: ') :]}"
    )


def _place(part: Stretch, at: int, shift: int) -> str:
    if at < shift:
        return f"prompt token {at}"
    if at >= len(part.token_ids):
        return f"response token {at - shift}, after the last turn,"
    where = f"in turn {_turn(part, at)}" if part.sampled[at] else f"before turn {_turn(part, at) + 1}"
    return f"response token {at - shift} ({where})"


def _turn(part: Stretch, at: int) -> int:
    """Return the number of the latest turn that began at or before a token."""
    return part.turn - 1 + sum(start <= at for start in part.starts)
