"""A small world of entities and relations, and one short passage for each entity."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import islice

from examples.hopqa.lexicon import Lexicon
from examples.hopqa.schema import RELATIONS, Kind

TRAIN_SIZES = {Kind.PERSON: 120, Kind.CITY: 60, Kind.COUNTRY: 20, Kind.WORK: 60, Kind.ORGANISATION: 60}
HELD_OUT_SIZES = {kind: size // 2 for kind, size in TRAIN_SIZES.items()}


@dataclass(frozen=True)
class Entity:
    """One entity: its facts map each relation of its kind to the name of another entity."""

    name: str
    kind: Kind
    facts: dict[str, str]

    def passage(self) -> str:
        """The text the search tool returns; the facts stand in the entity's own order."""
        facts = "; ".join(f"{relation} {value}" for relation, value in self.facts.items())
        return f"{self.name} ({self.kind.value}). {facts}."


@dataclass(frozen=True)
class World:
    """Entities whose facts name only entities of the same world."""

    entities: dict[str, Entity]

    def follow(self, name: str, relation: str) -> str:
        """Name of the entity that `relation` of `name` leads to.

        Raises:
            KeyError: no such entity, or the entity has no such relation.
        """
        return self.entities[name].facts[relation]


def make_world(lexicon: Lexicon, sizes: dict[Kind, int], taken: frozenset[str], rng: random.Random) -> World:
    """Draws names that are not taken and connects every entity by all relations of its kind.

    Args:
        lexicon: the words names are made of.
        sizes: number of entities of each kind, at least 2.
        taken: names the world must not use.
        rng: source of all randomness.
    """
    drawn = iter(lexicon.draw_names(sum(sizes.values()), taken, rng))
    names = {kind: list(islice(drawn, sizes[kind])) for kind in Kind}
    entities = {}
    for kind in Kind:
        for name in names[kind]:
            relations = list(RELATIONS[kind].items())
            rng.shuffle(relations)
            facts = {relation: _draw_other(names[target], name, rng) for relation, target in relations}
            entities[name] = Entity(name, kind, facts)
    return World(entities)


def make_split_worlds(lexicon: Lexicon, seed: int) -> tuple[World, World]:
    """The training world and the held-out world of a seed: no entity of one is named in the other."""
    rng = random.Random(f"world-{seed}")
    train = make_world(lexicon, TRAIN_SIZES, frozenset(), rng)
    held_out = make_world(lexicon, HELD_OUT_SIZES, frozenset(train.entities), rng)
    return train, held_out


def _draw_other(names: list[str], own: str, rng: random.Random) -> str:
    while (name := rng.choice(names)) == own:
        pass
    return name
