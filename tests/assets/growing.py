"""Growth of a tree over a fake engine and loop."""

from __future__ import annotations

import random

from tests.assets.fakes import FakeEngine, FakeLoop, run_loop_with
from verl_atpo.config import AtpoConfig, ExpansionConfig, GrowthConfig, Schedule
from verl_atpo.rollout.grower import TreeGrower
from verl_atpo.tree.growth import GrownTree


def config_of(chains: int = 3, branches: int = 2, rounds: int = 2, **growth: float) -> AtpoConfig:
    return AtpoConfig(
        expansion=ExpansionConfig(
            initial_chains=chains, branches_per_round=branches, rounds=rounds, schedule=Schedule.ROUNDS
        ),
        growth=GrowthConfig(**{"max_regrows": 3, "regrow_delay_s": 0.0} | growth),
    )


async def grow_tree(config: AtpoConfig, engine: FakeEngine, loop: FakeLoop) -> GrownTree:
    run_loop = run_loop_with(engine, loop)
    return await TreeGrower(config, run_loop, random.Random(0)).grow()
