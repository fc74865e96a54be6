"""Questions of 1 to 4 hops and their rows in verl's data format."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from examples.hopqa.world import World
from examples.kit.distinct import sample_distinct

HOPS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Question:
    """A chain of relations that starts at an entity.

    Attributes:
        relations: in the order in which they are followed; no relation twice.
        path: names of the entities passed, the start first and the answer last; no entity twice.
    """

    relations: tuple[str, ...]
    path: tuple[str, ...]

    @property
    def hops(self) -> int:
        """Number of relations to follow."""
        return len(self.relations)

    @property
    def answer(self) -> str:
        """Name of the entity at the end of the path."""
        return self.path[-1]

    @property
    def text(self) -> str:
        """The question as asked: the last relation comes first."""
        chain = " of the ".join(reversed(self.relations))
        return f"What is the {chain} of {self.path[0]}?"


def sample_question(world: World, hops: int, rng: random.Random) -> Question:
    """Draws a start entity and walks `hops` relations from it, never to a place it has been."""
    names = list(world.entities)
    while True:
        path = [rng.choice(names)]
        relations: list[str] = []
        while len(relations) < hops:
            facts = world.entities[path[-1]].facts
            steps = [(r, v) for r, v in sorted(facts.items()) if r not in relations and v not in path]
            if not steps:
                break
            relation, value = rng.choice(steps)
            relations.append(relation)
            path.append(value)
        else:
            return Question(tuple(relations), tuple(path))


def sample_questions(world: World, per_hop: int, rng: random.Random, numbers: Sequence[int] = HOPS) -> list[Question]:
    """Draws `per_hop` distinct questions of every one of these numbers of hops, shuffled."""
    return sample_distinct(lambda hops: sample_question(world, hops, rng), numbers, per_hop, rng)


def to_row(question: Question, index: int, split: str) -> dict[str, Any]:
    """Make one row of a verl data file; `data_source` names the hops, so that verl reports accuracy by hops."""
    return {
        "data_source": f"hopqa_{question.hops}hop",
        "prompt": [{"role": "user", "content": question.text}],
        "ability": "multi_hop_qa",
        "agent_name": "tool_agent",
        "reward_model": {"style": "rule", "ground_truth": question.answer},
        "extra_info": {
            "index": index,
            "split": split,
            "hops": question.hops,
            "relations": list(question.relations),
            "path": list(question.path),
        },
    }


def write_rows(questions: list[Question], split: str, file: Path) -> None:
    """Writes the questions as a parquet file."""
    pd.DataFrame([to_row(q, i, split) for i, q in enumerate(questions)]).to_parquet(file)


def read_questions(file: Path) -> list[Question]:
    """Reads back the questions of a parquet file."""
    infos = pd.read_parquet(file)["extra_info"]
    return [Question(tuple(info["relations"]), tuple(info["path"])) for info in infos]
