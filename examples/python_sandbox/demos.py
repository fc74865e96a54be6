"""Imperfect demonstrations: one sentence of the problem per call, by somebody who is careless."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from examples.python_sandbox.chat import PythonChat
from examples.python_sandbox.problems import OPERATIONS, Problem, Statement, stream
from verl_atpo.tiny.demo import Demo, Transcript
from verl_atpo.tools.python.tool import NO_OUTPUT


@dataclass(frozen=True)
class Habits:
    """Error rates of the demonstrator: probabilities per call.

    Attributes:
        wrong_operation: writes another operator than the sentence says.
        wrong_name: takes another name of the problem that has a value.
        hasty: number of prices worked out -> asks for the latest, although there are more, and answers with it.
    """

    wrong_operation: float
    wrong_name: float
    hasty: dict[int, float]


CARELESS = Habits(wrong_operation=0.12, wrong_name=0.08, hasty={1: 0.1, 2: 0.3, 3: 0.15})


class Demonstrator:
    """Works problems out with the given habits."""

    def __init__(self, codec: PythonChat, habits: Habits, rng: random.Random) -> None:
        """Keeps its arguments."""
        self._codec, self._habits, self._rng = codec, habits, rng

    def demonstrate(self, problem: Problem) -> Demo:
        """Plays one conversation to its answer: a call for each sentence, and one that shows the price asked for."""
        prices: dict[str, int] = {}
        transcript = Transcript()
        transcript.read(self._codec.prompt(problem.text))
        for done, planned in enumerate(problem.statements):
            if self._errs(self._habits.hasty.get(done - 1, 0.0)):
                break
            statement = self._write(planned, list(prices))
            prices[statement.name] = self._work_out(statement, prices)
            self._add_call(transcript, f"{statement.name} = {statement.expression}", NO_OUTPUT)
        asked, price = next(reversed(prices.items()))
        self._add_call(transcript, asked, str(price))
        transcript.write(self._codec.answer("", str(price)))
        return transcript.demo()

    def _add_call(self, transcript: Transcript, code: str, observed: str) -> None:
        transcript.write(self._codec.call("", code))
        transcript.read(self._codec.observation(observed))

    def _write(self, statement: Statement, known: list[str]) -> Statement:
        """The sentence as it is put into code."""
        if not statement.operator:
            return statement
        if self._errs(self._habits.wrong_operation):
            others = [operator for operator in OPERATIONS if operator != statement.operator]
            statement = replace(statement, operator=self._rng.choice(others))
        others = [name for name in known if name not in (statement.left, statement.right)]
        if others and self._errs(self._habits.wrong_name):
            side = "right" if statement.left.isdigit() else "left"
            statement = replace(statement, **{side: self._rng.choice(others)})
        return statement

    def _work_out(self, statement: Statement, prices: dict[str, int]) -> int:
        """Compute the tool's answer to the sentence, without a sandbox for each demonstration."""
        left, right = (prices[term] if term in prices else int(term or 0) for term in (statement.left, statement.right))
        return OPERATIONS[statement.operator](left, right) if statement.operator else left

    def _errs(self, probability: float) -> bool:
        return self._rng.random() < probability


def make_demos(codec: PythonChat, count: int, seed: int, habits: Habits = CARELESS) -> Iterator[Demo]:
    """Yields demonstrations on fresh problems, every number of steps alike."""
    rng = random.Random(f"demos-{seed}")
    demonstrator = Demonstrator(codec, habits, rng)
    for problem in itertools.islice(stream(rng), count):
        yield demonstrator.demonstrate(problem)
