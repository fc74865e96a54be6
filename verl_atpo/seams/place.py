"""Types of seams of verl and of the features that need them; :mod:`verl_atpo.seams.places` lists the seams."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Feature(Enum):
    """A feature that a user can switch on; the value is the setting that does so."""

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
    """One name or setting that verl has to have.

    Attributes:
        place: ``module:name``, with a class before its method; a key of verl's whole trainer config as ``config:key``.
        why: its use in this package.
        parameters: parameters that are passed or overridden, in their order; others may stand between them.
        mentions: names, attributes, keywords or strings that have to occur in its body.
    """

    place: str
    why: str
    parameters: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()


def seam(place: str, why: str, parameters: str = "", mentions: str = "") -> Seam:
    """Make a seam whose parameters and mentions are separated by spaces."""
    return Seam(place, why, tuple(parameters.split()), tuple(mentions.split()))
