"""Checks of rewards: the values that a reward function may return, and the cause of a missing one."""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Mapping
from typing import Any

from verl_atpo.config import ConfigError
from verl_atpo.failure import TrajectoryBug, brief, died_while_made, is_outage, last_words
from verl_atpo.settings import show

logger = logging.getLogger(__name__)

LARGEST = 3.4028234663852886e38
"""Largest float32, the type in which verl keeps rewards."""
VERLS_KEYS = ("reward", "input", "output", "gts", "step")
"""Keys of a reward's extra information under which verl's validation keeps values of its own."""
FUNCTION = "reward.custom_reward_function.path"

_renamed = False


def as_number(value: Any) -> float | None:
    """Read a reward as a float; ``None`` for what is no single number, and for any text."""
    if isinstance(value, str | bytes | bytearray) or getattr(value, "ndim", 0) != 0:
        return None
    try:
        return float(value)
    except Exception:  # of the value's own class
        return None


def reward_problem(result: Any) -> str | None:
    """Describe what is wrong with the return value of a reward function.

    Returns:
        None for a finite number that float32 can hold, and for a mapping with one under ``score``.
    """
    score = result.get("score") if isinstance(result, Mapping) else result
    found = as_number(score)
    if isinstance(result, Mapping) and "score" not in result:
        why = "the mapping has no key 'score'"
    elif found is None:
        why = f"{type(score).__name__} is no number"
    elif not math.isfinite(found):
        why = "the reward is not finite"
    elif abs(found) > LARGEST:
        why = "the reward is too large for float32"
    else:
        return None
    return f"returned {show(result)}: expected a finite number, or a mapping with one under 'score'; {why}"


def check_result(result: Any) -> None:
    """Check what a reward function returned.

    Raises:
        TrajectoryBug: neither a finite number nor a mapping with one under ``score``.
    """
    if (problem := reward_problem(result)) is not None:
        raise TrajectoryBug(f"The reward function {problem}. Remedy: fix the reward function ({FUNCTION}).")


def sendable(result: Any) -> Any:
    """Return a checked result as verl takes it: a ``dict``, if it is any mapping, without what no process can be sent.

    Raises:
        TrajectoryBug: as of :func:`check_result`.
    """
    check_result(result)
    if not isinstance(result, Mapping):
        return result
    return {key: value if _can_be_sent(value) else _text(value) for key, value in result.items()}


def _can_be_sent(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


def _text(value: Any) -> str:
    """Write extra information as text, whatever its own methods raise."""
    from verl_atpo.tools.answer import as_text  # imports verl, which the plugin must not while verl is importing it

    try:
        return as_text(value)
    except (Exception, SystemExit) as error:
        return f"[{type(value).__name__}: {type(error).__name__}]"


def check_reward(output: Any, computed: bool) -> None:
    """Check the reward of a trajectory and make it a float; its extra information becomes numbers and texts.

    A key that verl uses itself is renamed.

    Args:
        output: verl's ``AgentLoopOutput``, scored.
        computed: whether a reward function was asked; else the agent loop may have set the reward, or nobody has yet.

    Raises:
        TrajectoryBug: it is no finite number.
    """
    score = output.reward_score
    if score is None and not computed:
        return
    try:
        check_result(score)
    except TrajectoryBug as error:
        if computed:
            raise
        raise TrajectoryBug(
            f"The agent loop returned reward_score={show(score)}: expected a finite number, or None for the reward "
            "function to be asked."
        ) from error
    output.reward_score = as_number(score)
    extra = output.extra_fields.get("reward_extra_info")
    if isinstance(extra, Mapping):
        extra = _without_verls_keys(extra)
        output.extra_fields["reward_extra_info"] = {str(key): _plain_extra(value) for key, value in extra.items()}


def blamed(error: Exception, data_source: Any) -> Exception:
    """Make the error to raise for a missing reward: an outage stays one, anything else names the remedy."""
    raised = getattr(error, "cause", None) or error  # Ray wraps what a remote function raised
    if died_while_made(error):
        return ConfigError(
            f"{last_words(error)}. verl's reward worker died of it while it was made. Remedy: fix {FUNCTION}, or what "
            "else it loads."
        )
    if isinstance(raised, NotImplementedError):  # verl's own rewards know some data sources only
        return ConfigError(
            f"There is no reward for data_source={data_source!r} ({raised}); set {FUNCTION} and name, or "
            "+score=qa_paper for question answering."
        )
    if isinstance(raised, TrajectoryBug):
        return TrajectoryBug(str(raised))
    if is_outage(error):
        return error
    return TrajectoryBug(
        f"The reward function raised {brief(error)}. A trajectory without a reward cannot be trained on. Remedy: fix "
        "it, and let it return what such a response deserves."
    )


def _without_verls_keys(extra: Mapping[str, Any]) -> dict[str, Any]:
    global _renamed
    if (taken := [key for key in VERLS_KEYS if key in extra]) and not _renamed:
        _renamed = True
        logger.warning(
            "The reward function returned a mapping with the key %s, under which verl's validation keeps the score, "
            "texts or step itself: it is called %s in metrics.",
            ", ".join(taken),
            ", ".join(f"function_{key}" for key in taken),
        )
    return {f"function_{key}" if key in VERLS_KEYS else key: value for key, value in extra.items()}


def _plain_extra(value: Any) -> Any:
    """Return extra information as verl's validation can average or write it: a number of Python's, None, or text."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    found = as_number(value)
    if found is None:
        return _text(value)
    return bool(found) if str(getattr(value, "dtype", "")).endswith("bool") else found
