"""Exact match and F1 between a predicted and the golden answers, as SQuAD and HotpotQA define them."""

from __future__ import annotations

import ast
import json
import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARRAY = re.compile(r"array\((.*?)(?:,\s*dtype=[^()]*)?\)", re.DOTALL)
"""An array as numpy shows it, which a table holds where somebody saved arrays as text."""
_NO_COMMA = re.compile(r"""(?<=[^\[,(\s])(['"])\s+(['"])(?=[^\],)\s])""")
"""End and beginning of two texts with only blanks between them, as in numpy's arrays; Python would join them."""
SEPARATOR = "<|answer_split|>"
"""Text between the golden answers of a row, in data of R1-Searcher's form."""
_CLOSED_ANSWERS = frozenset({"yes", "no", "noanswer"})


def normalise(text: str) -> str:
    """Normalise text as SQuAD does: lower case, no ASCII punctuation, no English articles, single spaces.

    Accents and punctuation outside ASCII stay, as in the official scripts. May return "", for example for "The" or "?".
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _comparable(text: str) -> str:
    """Normalise text; if nothing is left of it, return the text in lower case with single spaces.

    Thus "a" does not match the band "The The", and an empty prediction never equals a golden answer.
    """
    return normalise(text) or " ".join(text.lower().split())


def exact_match(prediction: str, golden: Iterable[str]) -> float:
    """Return 1.0 if the prediction equals one of the golden answers after normalisation, else 0.0."""
    wanted = _comparable(prediction)
    return float(bool(wanted) and any(_comparable(answer) == wanted for answer in golden))


def f1_score(prediction: str, golden: Iterable[str]) -> float:
    """Return the best F1 of the prediction's words against one golden answer, in [0, 1]; 0.0 without golden answers.

    HotpotQA's convention: if one side is yes, no or noanswer, any other word scores 0.
    """
    return max((_f1(_comparable(prediction), _comparable(answer)) for answer in golden), default=0.0)


def _f1(prediction: str, golden: str) -> float:
    if prediction != golden and not _CLOSED_ANSWERS.isdisjoint((prediction, golden)):
        return 0.0
    predicted_words, golden_words = prediction.split(), golden.split()
    common = sum((Counter(predicted_words) & Counter(golden_words)).values())
    # 2PR / (P + R) with P = common / predicted and R = common / golden
    return 2 * common / (len(predicted_words) + len(golden_words)) if common else 0.0


def golden_answers(ground_truth: Any) -> list[str]:
    """Return the golden answers of a row, for all forms of its ``ground_truth``.

    Args:
        ground_truth: ``{"target": answers}`` or ``answers``. These are a string, or a list, tuple or array of strings.
            A string may be any of these as JSON, Python or numpy text (``'["Oslo", "Christiania"]'``, as in PopQA).

    Raises:
        ValueError: another form, no answer, or an answer that is not a string or is blank.
    """
    answers = _read(ground_truth)
    if isinstance(answers, dict):
        answers = _read(answers.get("target"))
    if hasattr(answers, "tolist"):  # numpy, as verl reads lists from parquet
        answers = answers.tolist()
    if isinstance(answers, str):
        answers = [answers]
    if not isinstance(answers, list | tuple):
        raise ValueError(_ground_truth_error(ground_truth))
    found = list(_flat(answers))
    if not found or not all(isinstance(answer, str) and answer.strip() for answer in found):
        raise ValueError(_ground_truth_error(ground_truth))
    return found


def _flat(answers: Iterable[Any]) -> Iterator[Any]:
    """Yield the answers of lists in lists, those that a text spells included."""
    for answer in answers:
        read = _read(answer)
        if isinstance(read, list | tuple):
            yield from _flat(each if not isinstance(each, int | float) else str(each) for each in read)
        else:
            yield read


def _read(answers: Any) -> Any:
    """Parse a text that spells several answers or a mapping with a target; return any other value unchanged."""
    text = answers.strip() if isinstance(answers, str) else ""
    if array := _ARRAY.fullmatch(text):
        text = array[1].strip()
    if SEPARATOR in text:
        return text.split(SEPARATOR)
    if text[:1] + text[-1:] not in ("[]", "{}", "()", '""'):
        return answers
    for parse, spelled in ((json.loads, text), (ast.literal_eval, _NO_COMMA.sub(r"\1, \2", text))):
        try:
            value = parse(spelled)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(value, list | tuple | set) and _are_answers(list(value)):
            return [str(each) for each in value]
        if isinstance(value, list) and any(isinstance(each, str | list) for each in value):
            return value  # lists in lists; what is no answer in them is refused
        if isinstance(value, dict):
            return value
        if isinstance(value, str) and value.strip()[:1] in ("[", "{"):  # JSON in JSON
            return _read(value)
    return answers


def _are_answers(values: list[Any]) -> bool:
    """Return whether parsed values are answers; numbers alone are one, as they are spelled."""
    kinds = set(map(type, values))
    return kinds <= {str, int, float} and (str in kinds or not kinds)


def _ground_truth_error(ground_truth: Any) -> str:
    return (
        f"reward_model.ground_truth: got {ground_truth!r}, expected one or more golden answers that are not blank, as "
        '{"target": ["..."]}, as a list of strings or as one string; correct the row, or prepare the data file again.'
    )
