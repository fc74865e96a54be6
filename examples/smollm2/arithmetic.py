"""Safe evaluation of what the model types into its calculator."""

from __future__ import annotations

import ast
import operator

from simpleeval import InvalidExpression, SimpleEval

LONGEST = 100
"""Characters of an expression."""

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
}
_SIGNS = str.maketrans({"x": "*", "×": "*", "÷": "/", "–": "-", "−": "-", ",": None})  # noqa: RUF001


def evaluate(expression: str) -> str:
    """The value of an expression of numbers, `+ - * /` and brackets; what is wrong with it, if it has none.

    Whole numbers are written without a point, others with at most four decimals. `x`, `×`, `÷` and long dashes are
    read as the operators they look like, commas in numbers are left out.
    """  # noqa: RUF002
    if len(expression) > LONGEST:
        return f"error: longer than {LONGEST} characters"
    try:
        value = SimpleEval(operators=_OPERATORS, functions={}, names={}).eval(expression.strip().translate(_SIGNS))
        return str(int(value)) if value == int(value) else f"{value:.4f}".rstrip("0")
    except ZeroDivisionError:
        return "error: division by zero"
    except (InvalidExpression, SyntaxError, ArithmeticError, TypeError, ValueError, RecursionError, MemoryError):
        return "error: not an expression of numbers"
