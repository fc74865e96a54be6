"""Form of an agent loop's outputs: token ids, masks and log-probs as lists of Python's numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from verl_atpo.failure import TrajectoryBug

FIELDS = ("prompt_ids", "response_ids", "response_mask")
LONGEST_VALUE = 100


def plain_outputs(returned: Any) -> list[Any]:
    """Return what an agent loop returned as a list of outputs of its own, whose fields are lists of numbers.

    Tensors, arrays and tuples are read as lists; a log-prob where the mask is 0 is trained nowhere, and becomes 0 if it
    is no finite number, so that it cannot spoil sums over masked tokens.

    Args:
        returned: an object with the fields of verl's ``AgentLoopOutput``, or a list of them.

    Raises:
        TrajectoryBug: it is neither, or a field holds something else than a row of numbers; names the field.
    """
    outputs = []
    for output in returned if isinstance(returned, list | tuple) else [returned]:
        if not all(hasattr(output, field) for field in FIELDS):
            raise TrajectoryBug(
                f"The agent loop returned {_short(output)}: expected an AgentLoopOutput, or a list of them for a loop "
                "that replaces its context. Remedy: return one at the end of run()."
            )
        outputs.append(copy.copy(output))  # a loop may fill the same object again for another trajectory
        _make_plain(outputs[-1])
        _check_rest(outputs[-1])
    if not outputs:
        raise TrajectoryBug("The agent loop returned no output. Remedy: return an AgentLoopOutput at the end of run().")
    return outputs


def _make_plain(output: Any) -> None:
    for field in FIELDS:
        values = _listed(field, getattr(output, field))
        setattr(output, field, [_whole(field, at, value) for at, value in enumerate(values)])
    log_probs = getattr(output, "response_logprobs", None)
    if log_probs is not None:
        numbers = [_number(value) for value in _listed("response_logprobs", log_probs)]
        mask = output.response_mask
        trained = mask if len(mask) == len(numbers) else [1] * len(numbers)
        pairs = zip(numbers, trained, strict=True)
        output.response_logprobs = [each if bit or _finite(each) else 0.0 for each, bit in pairs]


def _check_rest(output: Any) -> None:
    """Check the fields beside the tokens that verl reads once the row is far away from its loop."""
    turns = _number(getattr(output, "num_turns", 0))
    if not isinstance(turns, int):
        raise TrajectoryBug(f"The agent loop returned num_turns={_short(turns)}: expected the number of messages.")
    if hasattr(output, "num_turns"):
        output.num_turns = turns
    extra = getattr(output, "extra_fields", {})
    if extra is not None and not isinstance(extra, dict):
        raise TrajectoryBug(f"The agent loop returned extra_fields={_short(extra)}: expected a dict.")
    if hasattr(output, "extra_fields"):
        output.extra_fields = {k: v for k, v in (extra or {}).items() if k != "reward_extra_info" or v is not None}


def _listed(field: str, values: Any) -> list[Any]:
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise TrajectoryBug(f"The agent loop returned {field}={_short(values)}: expected a list of numbers.")
    return list(values)


def _whole(field: str, at: int, value: Any) -> Any:
    """Return a token id or mask as an int; a mask that is neither 0 nor 1 is left for the comparison to name."""
    number = _number(value)
    if isinstance(number, int | float) and math.isfinite(number) and number == int(number):
        return int(number)
    if field == "response_mask":
        return number
    raise TrajectoryBug(f"The agent loop returned {field} with {_short(value)} at {at}: expected token ids.")


def _number(value: Any) -> Any:
    """Return a number of any library as Python's; anything else as it is."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    return float(value) if isinstance(value, float) else value


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _short(value: Any) -> str:
    words = f"{type(value).__name__} {value!r}" if value is not None else "None"
    return words if len(words) <= LONGEST_VALUE else f"{words[:LONGEST_VALUE]}..."
