"""The real thing: verl's ``main_ppo`` with Ray, an FSDP2 actor and a vLLM server, on a CPU, with a user's own loop."""

from __future__ import annotations

import pytest

from tests.assets.main_ppo import LEAVES, PROMPTS, check_rewards
from tests.assets.words_loop import TURNS
from tests.e2e.conftest import PLAIN_STEPS


@pytest.mark.e2e
def test_main_ppo_trains_on_trees(plain_run):
    assert [record["step"] for record in plain_run.steps()] == [0, 1, 2]
    before, *trained = (record["data"] for record in plain_run.steps())
    assert "val-core/words/acc/mean@1" in before and "val-core/words/acc/mean@1" in trained[-1]
    assert not any(key.startswith("atpo/") for key in before)  # validation runs verl's plain chains
    for data in trained:
        assert data["atpo/trees"] == PROMPTS
        assert data["atpo/leaves_per_tree"] == LEAVES
        assert data["atpo/depth/mean"] == TURNS
        assert 0 < data["atpo/shared_tokens_share"] < 1
        assert data["atpo/saved_tokens_share"] < 1
        assert data["atpo/replays_diverged"] == data["atpo/branches_regrown"] == data["atpo/trees_failed"] == 0
        assert data["actor/atpo/turns_per_row"] == TURNS
        assert data["actor/grad_norm"] > 0
        assert data["training/rollout_probs_diff_max"] < 0.01  # the trainer recomputes the recorded log-probs

    trees = plain_run.trees()
    assert len(trees) == PROMPTS * PLAIN_STEPS
    for tree in trees:
        assert sum(node["is_leaf"] for node in tree["nodes"]) == LEAVES
        assert len(tree["picked"]) == 4
    for step, data in enumerate(trained, start=1):
        check_rewards(trees, step, data)
