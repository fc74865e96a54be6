"""What a seam of verl is, and the features that need some; :mod:`verl_atpo.seams.places` lists them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Feature(Enum):
    """What a user can ask for; the value is how he does."""

    METHOD = "adv_estimator=atpo, loss_mode=atpo"
    PRESETS = "+atpo=..."
    TREES = "+atpo=tree"
    SCHEMES = "credit schemes that need more of verl"
    PACKED = "+train=packed"
    CPU = "+platform=cpu"
    QUICK = "+sampler=quick"
    GLOO = "separate_async with +platform=cpu"
    TAGS = "+agent=search_tags"


@dataclass(frozen=True)
class Seam:
    """One thing that verl has to have.

    Attributes:
        place: ``module:name``, with a class before its method; a key of verl's whole trainer config as ``config:key``.
        why: what this package does with it.
        parameters: those that are passed or overridden, in their order; further ones may stand among them.
        mentions: names, attributes, keywords or texts that have to occur in its body.
    """

    place: str
    why: str
    parameters: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()


def seam(place: str, why: str, parameters: str = "", mentions: str = "") -> Seam:
    """A seam whose parameters and mentions are words of a text."""
    return Seam(place, why, tuple(parameters.split()), tuple(mentions.split()))
