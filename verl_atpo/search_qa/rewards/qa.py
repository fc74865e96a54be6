"""The reward that verl calls: exact match or F1 of the final answer, with a penalty on malformed responses.

The defaults are the paper's: -1 for a malformed response, else exact match; validation without the penalty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from verl_atpo.search_qa.rewards.observations import Style, split_turns
from verl_atpo.search_qa.rewards.response import extract_answer, turns_error
from verl_atpo.search_qa.rewards.text import exact_match, f1_score, golden_answers

_METRICS: dict[str, Callable[[str, Iterable[str]], float]] = {"em": exact_match, "f1": f1_score}
_VERL_ARGUMENTS = frozenset({"reward_router_address", "reward_model_tokenizer"})
"""Arguments that verl passes to every reward function once a reward model is configured; unused here."""


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    *,
    metric: str = "em",
    malformed_score: float | None = -1.0,
    style: str = "any",
    **kwargs: Any,
) -> dict[str, float]:
    """Score one response; settings go into ``reward.custom_reward_function.reward_kwargs``.

    Args:
        data_source: the benchmark; part of verl's signature, all are scored in the same way.
        solution_str: decoded response: all turns and observations.
        ground_truth: the golden answers, in a form that ``golden_answers`` reads.
        extra_info: ``split`` distinguishes training ("train", or no split) from validation (any other value).
            ``policy_text``, if present, is the policy's own text: its tokens decoded, its turns joined by newlines. It
            is then scored instead of ``solution_str``, and no part of it counts as an observation.
        metric: "em" or "f1": score of a well-formed response.
        malformed_score: score of a malformed response in training; None for no penalty.
        style: "tools", "tags" or "any": form of the calls. Set it if it is known: with "any", a policy that should use
            one style can pass with the other.
        **kwargs: verl's own further arguments.

    Returns:
        The same keys for every response: ``score``, the reward; ``em`` and ``f1`` of the answer, 0.0 without one;
        ``acc``, equal to ``em``, the name that verl's validation looks for; ``format_ok`` and ``answered``, 1.0 or 0.0.

    Raises:
        ValueError: an unknown setting or value of a setting, or a ground truth without golden answers.
    """
    _check_settings(metric, style, kwargs)
    info = extra_info or {}
    golden = golden_answers(ground_truth)
    own = info.get("policy_text")
    turns = [own] if own is not None else split_turns(solution_str, Style(style))
    answer = extract_answer("\n".join(turns))
    values = {name: measure(answer, golden) if answer else 0.0 for name, measure in _METRICS.items()}
    malformed = turns_error(turns, Style(style)) is not None
    punished = malformed and malformed_score is not None and (info.get("split") or "train") == "train"
    return {
        "score": float(malformed_score) if punished else values[metric],  # type: ignore[arg-type]
        "acc": values["em"],
        **values,
        "format_ok": float(not malformed),
        "answered": float(answer is not None),
    }


def _check_settings(metric: str, style: str, unknown: dict[str, Any]) -> None:
    """Refuse unknown settings and values, which would otherwise be misread silently."""
    where = "reward.custom_reward_function.reward_kwargs"
    for name, value, valid in (("metric", metric, list(_METRICS)), ("style", style, [style.value for style in Style])):
        if value not in valid:
            raise ValueError(f"{where}.{name}: got {value!r}, expected one of {valid}.")
    if names := sorted(unknown.keys() - _VERL_ARGUMENTS):
        raise ValueError(f"{where}: got {names}, expected only metric, malformed_score and style; remove the others.")
