"""Price problems of 1 to 4 steps and their rows in verl's data format."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from operator import add, mul, sub
from pathlib import Path
from typing import Any

import pandas as pd

from examples.kit.distinct import sample_distinct

NAMES = (
    *("apple", "date", "fig", "grape", "guava", "kiwi", "lemon", "lime"),
    *("mango", "melon", "olive", "papaya", "peach", "pear", "plum", "quince"),
)
STEPS = (1, 2, 3, 4)
LARGEST = 9999

OPERATIONS = {"+": add, "-": sub, "*": mul}
_WORDS = {"+": "more than", "-": "less", "*": "times"}


@dataclass(frozen=True)
class Statement:
    """One sentence of a problem: the price of `name` is the value of `left operator right`.

    Attributes:
        name: what has the price; a variable's name.
        left: a number or an earlier name; a number where there is no operator.
        operator: `+`, `-`, `*`, or nothing in the sentence that states the first price.
        right: a number or an earlier name, or nothing.
    """

    name: str
    left: str
    operator: str = ""
    right: str = ""

    @property
    def expression(self) -> str:
        """The price in Python."""
        return f"{self.left} {self.operator} {self.right}" if self.operator else self.left

    @property
    def text(self) -> str:
        """The sentence."""
        price = f"{self.left} {_WORDS[self.operator]} {self.right}" if self.operator else self.left
        return f"{self.name} costs {price}."


@dataclass(frozen=True)
class Problem:
    """A first price and 1 to 4 more, each made from the one before; the question is about the last.

    Attributes:
        statements: the sentences, in order.
        values: the prices, in the same order; all different.
    """

    statements: tuple[Statement, ...]
    values: tuple[int, ...]

    @property
    def steps(self) -> int:
        """Return the number of prices that have to be computed."""
        return len(self.statements) - 1

    @property
    def text(self) -> str:
        """The problem as asked."""
        sentences = " ".join(statement.text for statement in self.statements)
        return f"{sentences} What does {self.statements[-1].name} cost?"

    @property
    def answer(self) -> str:
        """The price that is asked for."""
        return str(self.values[-1])


def sample_problem(steps: int, rng: random.Random) -> Problem:
    """Draws names, numbers and operations; prices are from 2 to `LARGEST`."""
    names = rng.sample(NAMES, steps + 1)
    values = [rng.randint(11, 99)]
    statements = [Statement(names[0], str(values[0]))]
    while len(statements) < len(names):
        statement, value = _draw_statement(names, values, rng)
        if 1 < value <= LARGEST and value not in values:
            statements.append(statement)
            values.append(value)
    return Problem(tuple(statements), tuple(values))


def _draw_statement(names: list[str], values: list[int], rng: random.Random) -> tuple[Statement, int]:
    """A next sentence and its price, which need not be in range."""
    last, operator = len(values) - 1, rng.choice(list(OPERATIONS))
    if last == 0 or rng.random() < 0.5:
        number = rng.randint(2, 9) if operator == "*" else rng.randint(11, 99)
        operands = [(str(number), number), (names[last], values[last])]
        if operator == "-":
            operands.reverse()  # "fig minus 12", but "12 more than fig"
    else:
        operands = [(names[index], values[index]) for index in rng.sample([last, rng.randrange(last)], 2)]
    (left, first), (right, second) = operands
    return Statement(names[last + 1], left, operator, right), OPERATIONS[operator](first, second)


def sample_problems(per_step: int, rng: random.Random) -> list[Problem]:
    """Draws `per_step` distinct problems of every number of steps, shuffled."""
    return sample_distinct(lambda steps: sample_problem(steps, rng), STEPS, per_step, rng)


def to_row(problem: Problem, index: int, split: str) -> dict[str, Any]:
    """Make one row of a verl data file; `data_source` names the steps, so that verl reports accuracy by steps."""
    return {
        "data_source": f"python_{problem.steps}step",
        "prompt": [{"role": "user", "content": problem.text}],
        "ability": "arithmetic",
        "agent_name": "tool_agent",
        "reward_model": {"style": "rule", "ground_truth": problem.answer},
        "extra_info": {"index": index, "split": split, "steps": problem.steps},
    }


def write_rows(problems: list[Problem], split: str, file: Path) -> None:
    """Writes the problems as a parquet file."""
    pd.DataFrame([to_row(problem, index, split) for index, problem in enumerate(problems)]).to_parquet(file)


def stream(rng: random.Random) -> Iterator[Problem]:
    """Draws problems for ever, every number of steps alike."""
    while True:
        yield sample_problem(rng.choice(STEPS), rng)
