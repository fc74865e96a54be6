"""Imperfect demonstrations: a searcher that knows the way but is careless.

Demonstrations play in worlds of their own, made of the same words but of other names than the
held-out world, so that the model can learn how to search and not what is true.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from examples.hopqa.chat import ChatCodec
from examples.hopqa.lexicon import Lexicon
from examples.hopqa.questions import HOPS, Question, sample_question
from examples.hopqa.retrieval import SearchIndex
from examples.hopqa.world import TRAIN_SIZES, World, make_world
from verl_atpo.tiny.demo import Demo, Transcript


@dataclass(frozen=True)
class Habits:
    """Error rates of the demonstrator: probabilities per turn.

    Attributes:
        wrong_relation: follows another relation of the passage than the one that is next.
        half_name: puts only one word of the name in the query, which finds some other entity.
        hasty: number of hops done -> answers although hops are left.
        overrun: follows one more relation although it has the answer.
    """

    wrong_relation: float
    half_name: float
    hasty: dict[int, float]
    overrun: float


CARELESS = Habits(wrong_relation=0.12, half_name=0.06, hasty={1: 0.2, 2: 0.55, 3: 0.2}, overrun=0.12)


class Demonstrator:
    """Answers questions about one world through its search index, with the given habits."""

    def __init__(self, world: World, codec: ChatCodec, habits: Habits, rng: random.Random) -> None:
        """Builds the index of the world."""
        self._index = SearchIndex((e.name, e.passage()) for e in world.entities.values())
        self._by_passage = {e.passage(): e for e in world.entities.values()}
        self._codec, self._habits, self._rng = codec, habits, rng

    def demonstrate(self, question: Question) -> Demo:
        """Plays one conversation to its answer.

        A turn reads out the relation to follow and the name it leads to ("mayor Drelos Vain"), then
        searches for that name or answers with it. The first turn has nothing to read yet.
        """
        transcript = Transcript()
        transcript.read(self._codec.prompt(question.text))
        thought, name, done = "", question.path[0], 0
        while done == 0 or not self._stops(done, question.hops):
            query = self._write_name(name)
            found = self._index.search(query)
            transcript.write(self._codec.call(thought, query))
            transcript.read(self._codec.observation(found))
            facts = self._by_passage[found].facts
            relation = self._choose_relation(list(facts), question, done)
            name = facts[relation]
            thought = f"{relation} {name}"
            done += 1
        transcript.write(self._codec.answer(thought, name))
        return transcript.demo()

    def _choose_relation(self, offered: list[str], question: Question, done: int) -> str:
        planned = question.relations[done] if done < question.hops else None
        if planned is not None and planned in offered and not self._errs(self._habits.wrong_relation):
            return planned
        return self._rng.choice([relation for relation in offered if relation != planned])

    def _write_name(self, name: str) -> str:
        return self._rng.choice(name.split()) if self._errs(self._habits.half_name) else name

    def _stops(self, done: int, hops: int) -> bool:
        if done > hops:
            return True
        if done == hops:
            return not self._errs(self._habits.overrun)
        return self._errs(self._habits.hasty.get(done, 0.0))

    def _errs(self, probability: float) -> bool:
        return self._rng.random() < probability


def make_demos(
    lexicon: Lexicon,
    codec: ChatCodec,
    held_out: World,
    worlds: int,
    per_world: int,
    seed: int,
    habits: Habits = CARELESS,
    numbers: Sequence[int] = HOPS,
) -> Iterator[list[Demo]]:
    """Yields the demonstrations of one world after another; no held-out name occurs in any of them.

    Args:
        lexicon: the words of the worlds.
        codec: writes the conversations.
        held_out: the world whose names are avoided.
        worlds: number of worlds.
        per_world: demonstrations in each.
        seed: seed of worlds, questions and mistakes.
        habits: what the demonstrator does wrong.
        numbers: of hops, drawn from uniformly.
    """
    rng = random.Random(f"demos-{seed}")
    for _ in range(worlds):
        world = make_world(lexicon, TRAIN_SIZES, frozenset(held_out.entities), rng)
        demonstrator = Demonstrator(world, codec, habits, rng)
        questions = (sample_question(world, rng.choice(numbers), rng) for _ in range(per_world))
        yield [demonstrator.demonstrate(question) for question in questions]
