"""An agent that knows a base URL only, trained by verl's ``main_ppo`` with trees over a real vLLM server."""

from __future__ import annotations

import pytest

from tests.assets.main_ppo import LEAVES, PROMPTS, Run
from verl_atpo.gateway.presets import LOOPS

STEPS = 2
SETTINGS = "actor_rollout_ref.rollout.custom.gateway"
ROWS = 4
"""The main conversation, two sub-agents, the compacted context."""
AGENT = [
    "+agent=gateway",
    "actor_rollout_ref.rollout.agent.default_agent_loop=gateway",
    f"actor_rollout_ref.rollout.agent.agent_loop_config_path={LOOPS}",
    f"{SETTINGS}.agent=tests.assets.gateway_agent:delegate",
]


@pytest.mark.e2e
def test_trees_of_an_agent_with_sub_agents_and_compaction_are_trained(tmp_path):
    run = Run(
        tmp_path,
        "gateway",
        *AGENT,
        f"trainer.total_training_steps={STEPS}",
        f"trainer.rollout_data_dir={tmp_path}/rows",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "+train=packed",
    )
    assert run.wait() == 0, run.log[-5000:]
    assert run.left_over() == []
    for step in range(1, STEPS + 1):
        rows = run.rows(step)
        assert len(rows) == PROMPTS
        for uid, keys in rows.items():
            assert sorted(keys) == sorted(f"{uid}_{leaf}_{row}" for leaf in range(LEAVES) for row in range(ROWS))
    for tree in run.trees():
        assert tree["failed"] is None
        assert [branch["diverged"] for branch in tree["trajectories"]] == [False] * LEAVES
        assert all(len(set(branch["rows"])) == ROWS for branch in tree["trajectories"])
    assert all(record["data"]["actor/grad_norm"] > 0 for record in run.steps() if "actor/grad_norm" in record["data"])
