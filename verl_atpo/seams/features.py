"""Features of this package that verl's config switches on, so that their seams can be checked."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

from verl_atpo.packed.checks import is_packed
from verl_atpo.seams.places import Feature
from verl_atpo.search_qa.presets import TAG_LOOP
from verl_atpo.startup.checks import scheme_of
from verl_atpo.startup.verl_config import DEFAULT_LOOP, MODE, get, grows_trees, records_chains


def asked_for(config: DictConfig) -> Iterator[Feature]:
    """Yield the features that a config switches on, apart from estimator and loss."""
    chosen = get(config, "hydra.runtime.choices") or {}
    cpu = chosen.get("platform") == "cpu"
    asked = {
        Feature.PRESETS: chosen.get("atpo") is not None,
        Feature.TREES: grows_trees(config) or records_chains(config),
        Feature.SCHEMES: bool(scheme_of(config).seams()),
        Feature.PACKED: is_packed(config),
        Feature.CPU: cpu,
        Feature.QUICK: chosen.get("sampler") == "quick",
        Feature.GLOO: cpu and get(config, MODE) == "separate_async",
        Feature.TAGS: get(config, DEFAULT_LOOP) == TAG_LOOP,
    }
    yield from (feature for feature, is_on in asked.items() if is_on)
