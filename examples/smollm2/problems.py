"""Problems of 1 to 3 steps, the prompt that shows how to solve them, and rows in verl's data format."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from operator import add, mul, sub
from pathlib import Path
from typing import Any

import pandas as pd

STEPS = (1, 2, 3)
TRAINED_STEPS = (1, 2)
"""Those of 3 are for validation only: the untrained model solves next to none, and its trees have equal rewards."""

LARGEST = 99_999

OPERATIONS = {"+": add, "-": sub, "*": mul}
_WORDS = {"+": "add", "-": "subtract", "*": "multiply by"}


@dataclass(frozen=True)
class Problem:
    """A number to start with, and what is done to it, in order.

    Attributes:
        start: the first number.
        steps: operators and numbers, at least one.
    """

    start: int
    steps: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        """The problem as asked."""
        doings = "".join(f", {_WORDS[operator]} {number}" for operator, number in self.steps)
        return f"Start with {self.start}{doings}."

    @property
    def answer(self) -> int:
        """Return the final result."""
        return self.values[-1]

    @property
    def values(self) -> tuple[int, ...]:
        """Return the result after each step."""
        value, values = self.start, []
        for operator, number in self.steps:
            value = OPERATIONS[operator](value, number)
            values.append(value)
        return tuple(values)

    @property
    def solution(self) -> str:
        """The response of an agent that works out one step a call, in the words of `verl_atpo.search_qa.tag_agent`."""
        text = ""
        for before, (operator, number), after in zip((self.start, *self.values), self.steps, self.values, strict=False):
            text += f"<calc>{before} {operator} {number}</calc>\n<result>\n{after}\n</result>\n"
        return f"{text}The answer is {self.answer}."


EXAMPLES = (Problem(25, (("*", 14),)), Problem(70, (("-", 32), ("*", 15))))
"""Solved in the prompt before the problem; no problem is one of them."""


def messages(problem: Problem) -> list[dict[str, str]]:
    """The prompt: the solved examples as a conversation, then the problem."""
    turns = [(("user", example.text), ("assistant", example.solution)) for example in EXAMPLES]
    return [{"role": role, "content": text} for turn in (*turns, (("user", problem.text),)) for role, text in turn]


def sample_problem(steps: int, rng: random.Random) -> Problem:
    """Draws numbers and operations; factors are from 2 to 19, other numbers from 11 to 99, results to `LARGEST`."""
    while True:
        operators = [rng.choice(list(OPERATIONS)) for _ in range(steps)]
        numbers = [rng.randint(2, 19) if operator == "*" else rng.randint(11, 99) for operator in operators]
        problem = Problem(rng.randint(11, 99), tuple(zip(operators, numbers, strict=True)))
        if problem not in EXAMPLES and all(0 < value <= LARGEST for value in problem.values):
            return problem


def stream(seed: str, numbers: tuple[int, ...]) -> Iterator[Problem]:
    """Draws distinct problems, with these numbers of steps in turn."""
    rng, seen = random.Random(seed), set()
    while True:
        for steps in numbers:
            problem = sample_problem(steps, rng)
            while problem in seen:
                problem = sample_problem(steps, rng)
            seen.add(problem)
            yield problem


def to_row(problem: Problem, index: int, split: str) -> dict[str, Any]:
    """Make one row of a verl data file; `data_source` names the steps, so that verl reports accuracy by steps."""
    return {
        "data_source": f"smollm2_{len(problem.steps)}step",
        "prompt": messages(problem),
        "ability": "arithmetic",
        "agent_name": "tag_agent",
        "reward_model": {"style": "rule", "ground_truth": str(problem.answer)},
        "extra_info": {"index": index, "split": split, "solution": problem.solution},
    }


def write_rows(problems: list[Problem], split: str, file: Path) -> None:
    """Writes the problems as a parquet file."""
    pd.DataFrame([to_row(problem, index, split) for index, problem in enumerate(problems)]).to_parquet(file)
