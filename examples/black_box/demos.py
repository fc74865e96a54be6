"""Demonstrations of a careless demonstrator: it uses the tools in the right order and often with a wrong argument."""

from __future__ import annotations

import random
from collections.abc import Iterator

from examples.black_box.chat import RepairChat
from examples.black_box.repository import PASSED
from examples.black_box.tasks import FAULTS, FILES, NAMES, QUESTION, VALUES, Repair, draw
from verl_atpo.tiny import Demo, Transcript

CARE, HASTE = 0.8, 0.1
"""Chance that an argument is the right one; chance to end too early, after each check."""
MOST_CALLS = 8


class Demonstrator:
    """Repairs a repository in memory.

    Args:
        chat: writes turns.
        task: the repository.
        rng: draws the mistakes.
        care, haste: chances, see :data:`CARE`.
    """

    def __init__(
        self, chat: RepairChat, task: Repair, rng: random.Random, care: float = CARE, haste: float = HASTE
    ) -> None:
        self._chat, self._task, self._rng, self._care, self._haste = chat, task, rng, care, haste
        self._files = {file: dict(settings) for file, settings in task.files.items()}
        self._transcript = Transcript()
        self._calls = 0

    def demonstrate(self) -> Demo:
        """Check, find, edit, until the checks pass, patience or the calls end."""
        self._transcript.read(self._chat.prompt(QUESTION))
        while True:
            missing = self._check()
            if self._write_call(self._chat.check(), missing or PASSED):
                break
            if missing is None or self._rng.random() < self._haste:
                self._transcript.write(self._chat.done())
                break
            name, _, value = missing.split()
            asked = self._mostly(name, NAMES)
            file = next((file for file, settings in self._files.items() if asked in settings), "nowhere")
            if self._write_call(self._chat.find(asked), file):
                break
            file, value = self._mostly(file, FILES), self._mostly(value, [str(each) for each in VALUES])
            if self._write_call(self._chat.edit(file, f"{name} = {value}"), self._edit(file, name, value)):
                break
        return self._transcript.demo()

    def _mostly(self, right: str, others: tuple[str, ...] | list[str]) -> str:
        return right if self._rng.random() < self._care else self._rng.choice(others)

    def _check(self) -> str | None:
        for file, settings in self._task.wanted.items():
            for name, value in settings.items():
                if self._files[file][name] != value:
                    return f"{name} = {value}"
        return None

    def _edit(self, file: str, name: str, value: str) -> str:
        if file not in self._files:
            return "no such file"
        if name not in self._files[file]:
            return "no such line"
        self._files[file][name] = int(value)
        return "edited"

    def _write_call(self, turn: list[int], output: str) -> bool:
        """Write a turn and its output; returns whether it was the last call."""
        self._calls += 1
        self._transcript.write(turn)
        if self._calls == MOST_CALLS:
            return True
        self._transcript.read(self._chat.observation(output))
        return False


def make_demos(chat: RepairChat, count: int, seed: int) -> Iterator[Demo]:
    """Draw tasks and demonstrate them."""
    rng = random.Random(f"demos-{seed}")
    for number in range(count):
        yield Demonstrator(chat, draw(rng, FAULTS[number % len(FAULTS)]), rng).demonstrate()
