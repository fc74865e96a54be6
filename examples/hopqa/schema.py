"""The kinds of entities and the relations between them."""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """Kind of an entity; the value is the word used in its passage."""

    PERSON = "person"
    CITY = "city"
    COUNTRY = "country"
    WORK = "novel"
    ORGANISATION = "company"


RELATIONS: dict[Kind, dict[str, Kind]] = {
    Kind.PERSON: {"birthplace": Kind.CITY, "employer": Kind.ORGANISATION, "mentor": Kind.PERSON},
    Kind.CITY: {"country": Kind.COUNTRY, "mayor": Kind.PERSON, "museum": Kind.ORGANISATION},
    Kind.COUNTRY: {"capital": Kind.CITY, "president": Kind.PERSON, "epic": Kind.WORK},
    Kind.WORK: {"author": Kind.PERSON, "publisher": Kind.ORGANISATION, "setting": Kind.CITY},
    Kind.ORGANISATION: {"founder": Kind.PERSON, "headquarters": Kind.CITY, "archive": Kind.WORK},
}
"""Kind of the subject -> relation -> kind of the value. Relation names are unique over all kinds."""

RELATION_NAMES: tuple[str, ...] = tuple(name for relations in RELATIONS.values() for name in relations)
