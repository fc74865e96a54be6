"""Explanation of an advantage in words: value, baseline, scale; and of why a turn was sampled again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from verl_atpo.render.comparison import equal_turns, same_context
from verl_atpo.render.layout import ROOT
from verl_atpo.render.text import decimal, signed

TOLERANCE = 0.01
"""Largest difference between an advantage and the sum of its terms that counts as rounding."""
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
BACKUPS = {
    "leaf_mean": "the mean reward of the trajectories after it",
    "child_mean": "the mean of the turns sampled after it, each counted once",
    "child_softmax": "the mean of the turns sampled after it, weighted towards those of high NLL",
}


def explain(record: Mapping[str, Any], node: Mapping[str, Any], numbers: Mapping[int, int] | None = None) -> list[str]:
    """Explain a turn's advantage in sentences: the sum of its terms, and their scale.

    Args:
        record: the tree.
        node: the turn.
        numbers: number of each context, if they are known already.
    """
    advantage = node.get("advantage")
    if advantage is None:
        return []
    terms: Sequence[Mapping[str, Any]] = node.get("differences") or []
    if not terms:
        return _without_terms(record, node, numbers)
    amounts = [amount(term) for term in terms]
    words = [f"{_joined(number, each)} ({_term(term)})" for number, (each, term) in enumerate(
        zip(amounts, terms, strict=True))]  # fmt: skip
    found = [f"{signed(advantage)} = {' '.join(words)}"]
    scales = sorted({term.get("scale", 1.0) for term in terms})
    if scales != [1.0]:
        factors = " and ".join(decimal(scale) for scale in scales)
        found.append(f"The differences are multiplied by {factors}, the normalisation of this tree's outcomes.")
    rest = advantage - sum(amounts)
    if abs(rest) > TOLERANCE * max(1.0, abs(advantage)):
        found.append(f"The dump does not explain the remaining {signed(rest)}.")
    return found


def amount(term: Mapping[str, Any]) -> float:
    """Compute what a term adds to the advantage."""
    difference = term.get("value", 0.0) - term.get("baseline", 0.0)
    return float(term.get("weight", 1.0) * term.get("scale", 1.0) * difference)


def _joined(number: int, value: float) -> str:
    if number == 0:
        return decimal(value)
    return f"{'-' if value < 0 else '+'} {decimal(abs(value))}"


def _term(term: Mapping[str, Any]) -> str:
    weight = term.get("weight", 1.0)
    times = "" if weight == 1.0 else f"{decimal(weight)} times "
    return f"{times}{decimal(term.get('value', 0.0))} over {_baseline(term)}"


def _baseline(term: Mapping[str, Any]) -> str:
    words = _source(term.get("baseline_from", ""), term.get("baseline", 0.0), term.get("samples"))
    if term.get("prior") is not None:
        share = term.get("prior_share")
        by = "" if share is None else f" by {share:.0%}"
        words += f", shrunk{by} to {_source(term.get('prior_from', ''), term['prior'], None)}"
    return words


def _source(kind: str, value: float, samples: int | None) -> str:
    number = decimal(value)
    turns, chains = count(samples or None, "turn"), count(samples or None, "other chain")
    return {
        "prompt": f"the prompt's {number}",
        "parent": f"{number}, the value of the turn before",
        "before": f"{number}, the baseline of the turn before",
        "siblings": f"{number}, {turns} sampled after the same turn",
        "context": f"{number}, {turns} in the same context",
        "chains": f"{number}, {chains}",
        "leaves": f"{number}, the mean reward of the tree",
    }.get(kind, f"{number} ({kind})" if kind else number)


def count(number: int | None, thing: str) -> str:
    """Write how many there are: ``ten turns``; without a number ``the turns``."""
    if number is None:
        return f"the {thing}s"
    words = COUNTS[number] if number < len(COUNTS) else f"{number:,}"
    return f"{words} {thing}{'' if number == 1 else 's'}"


def _without_terms(record: Mapping[str, Any], node: Mapping[str, Any], numbers: Mapping[int, int] | None) -> list[str]:
    """Say what an advantage can be compared with where the dump does not say what it is the sum of."""
    value = node.get("value")
    if value is None:
        return []
    parts = [f"Its value is {decimal(value)}"]
    if record.get("root_value") is not None:
        parts.append(f"the prompt's is {decimal(record['root_value'])}")
    others = [each["value"] for each in same_context(record["nodes"], node, numbers) if each.get("value") is not None]
    if others:
        mean = decimal(sum(others) / len(others))
        parts.append(f"{count(len(others), 'other turn')} in the same context average {mean}")
    return [", ".join(parts) + "."]


def prompt_value(record: Mapping[str, Any]) -> str:
    """Explain the value of the prompt, and why it need not be the mean reward."""
    root, mean = record.get("root_value"), record["summary"].get("reward")
    if root is None:
        return ""
    backup = str((record.get("credit") or {}).get("backup"))
    how = BACKUPS.get(backup, "an average of what was sampled after it")
    words = f"Value of the prompt {decimal(root)}: {how}"
    if mean is not None and decimal(mean) != decimal(root):
        words += f". The mean reward of the trajectories is {decimal(mean)}: it counts each of them once"
    return words + "."


def reasons(record: Mapping[str, Any], node: Mapping[str, Any]) -> list[str]:
    """Say why the turn's expansion began here, how often the turn was selected, and which turns are equal to it."""
    found = []
    trajectories = record.get("trajectories") or []
    own = next((each for each in trajectories if each.get("number") == node.get("trajectory")), None)
    if own is not None and own.get("selection") and _first_of(record, own) == node["index"]:
        found.append(f"An expansion starts here: {_selection(own['selection'])}.")
    for trajectory in trajectories:
        reason = trajectory.get("selection")
        if reason and reason.get("node") == node["index"]:
            place = f"in round {trajectory.get('round')} (trajectory {trajectory.get('number')})"
            found.append(f"Selected for re-sampling {place}: {_score(reason)}.")
    times = (record.get("selected") or []).count(node["index"])
    if times and not any("Selected" in words for words in found):
        found.append(f"Selected for re-sampling {times} time{'s' if times > 1 else ''}.")
    if equal := equal_turns(record["nodes"]).get(node["index"]):
        found.append(f"Equal, token by token, to node {', '.join(map(str, equal))} in the same context.")
    return found


def _first_of(record: Mapping[str, Any], trajectory: Mapping[str, Any]) -> int | None:
    return min(
        (each["index"] for each in record["nodes"] if each.get("trajectory") == trajectory.get("number")), default=None
    )


def _selection(reason: Mapping[str, Any]) -> str:
    if reason.get("node") == ROOT:
        return f"a fresh chain from the prompt, {_score(reason)}"
    return f"node {reason.get('node')} was sampled again, {_score(reason)}"


def _score(reason: Mapping[str, Any]) -> str:
    parts = []
    if reason.get("score") is not None:
        parts.append(f"score {reason['score']:.3f}")
    if reason.get("penalty") is not None:
        parts.append(f"penalty {reason['penalty']:.3f}")
    if reason.get("rank") is not None:
        parts.append(f"rank {reason['rank']} of {reason.get('candidates', '?')} candidates")
    return ", ".join(parts) or "the dump does not say why"
