"""Settings of A²TGPO, under ``algorithm.atpo.information_gain``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from verl_atpo.settings import Amount, Share, settings

PLACE = "{answer}"
"""Placeholder of the gold answer in ``information_gain.prompt``."""


@settings
class InformationGainConfig:
    """A²TGPO's credit of turns, of ``algorithm.adv_estimator=a2tgpo`` (``docs/a2tgpo.md``)."""

    weight: Amount = 0.3
    """alpha, weight of the discounted gains beside the outcome."""
    discount: Share = 1.0
    """gamma, from a turn's gain to that of the turn before."""
    clip: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True)] = 0.3
    """beta, share by which a turn's clip range is at most wider or narrower; 0 leaves it as it is."""
    prompt: str = "<think>Now there's enough information to answer.</think><answer>{answer}</answer>"
    """Text assumed as the model's answer after an observation, with the gold answer in place of ``{answer}``."""
    answer: str = "reward_model.ground_truth"
    """Dotted path of the gold answer in a data row: a text, or a list of texts whose first one is taken."""

    def __post_init__(self) -> None:
        if self.prompt.count(PLACE) != 1:
            raise ValueError(
                f"prompt={self.prompt!r} cannot work: expected a text with {PLACE} in it once, where the gold answer "
                "stands; write how your model is to answer, e.g. '<answer>{answer}</answer>'."
            )
