"""When staggered expansions are due."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_atpo.config import AtpoConfig, ConfigError, ExpansionConfig
from verl_atpo.rollout.stagger import expansions_due, progress
from verl_atpo.tree.growth import Rollout

shares = st.floats(0.01, 1.0)


def chain(joined: int | None, ended: bool = False) -> Rollout:
    trajectory: Any = SimpleNamespace() if ended else None
    return Rollout(0, 0, None, [], 0.0, joined=joined, trajectory=trajectory)


def test_progress_by_hand():
    # Of 4 expected turns 0, 1 and 2 are sampled; 7 are no more than all, and a chain that ended after one is whole.
    chains = [chain(None), chain(1), chain(2), chain(7), chain(1, ended=True)]
    assert progress(chains, expected_turns=4.0) == pytest.approx((0 + 0.25 + 0.5 + 1 + 1) / 5)


@given(st.integers(0, 40), shares, shares, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_due_expansions_only_grow_and_all_are_due_at_the_end(expansions, one, other, early, late):
    config = ExpansionConfig(first_at=min(one, other), last_at=max(one, other))
    begin, end = (expansions_due(passed, expansions, config) for passed in sorted((early, late)))
    assert 0 <= begin <= end <= expansions == expansions_due(1.0, expansions, config)
    assert expansions_due(config.first_at - 1e-3, expansions, config) == 0
    assert expansions_due(config.last_at, expansions, config) == expansions


def test_the_last_expansion_cannot_start_before_the_first():
    with pytest.raises(ConfigError, match=r"algorithm.atpo.expansion.first_at=0.5 cannot work: .* last_at \(0.3\)"):
        AtpoConfig.from_mapping({"expansion": {"first_at": 0.5, "last_at": 0.3}})
