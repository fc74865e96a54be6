"""The `calc` tool of verl's agent loop; verl loads this file by its path.

Setting: `actor_rollout_ref.rollout.multi_turn.function_tool_path=examples/smollm2/calculator.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]
if str(_REPOSITORY) not in sys.path:  # verl's workers need not have been started in the repository
    sys.path.insert(0, str(_REPOSITORY))

from verl.tools.function_tool import function_tool  # noqa: E402

from examples.smollm2.arithmetic import evaluate  # noqa: E402


@function_tool
def calc(expression: str) -> str:
    """Works out an expression of numbers, such as 25 * 14 - 30.

    Args:
        expression: Numbers, + - * / and brackets.
    """
    return evaluate(expression)
