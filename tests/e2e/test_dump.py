"""The real thing with the settings of the dump: which trees are written and shown, and what the viewer finds."""

from __future__ import annotations

import pytest

from tests.assets.main_ppo import LEAVES, Run
from verl_atpo.view.index import TreeIndex

STEPS, EVERY, MOST = 3, 2, 2


@pytest.mark.e2e
def test_only_the_trees_that_are_asked_for_are_dumped_and_shown(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = Run(
        tmp_path,
        "words_loop",
        f"trainer.total_training_steps={STEPS}",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        'trainer.logger=["console","file","tensorboard"]',
        f"algorithm.atpo.dump_every={EVERY}",
        f"algorithm.atpo.dump_max={MOST}",
        "algorithm.atpo.log_trees=1",
        environment={"TENSORBOARD_DIR": str(tmp_path / "board")},
    )
    assert run.wait() == 0, run.log[-5000:]
    assert run.left_over() == []

    trees = sorted(run.trees(), key=lambda tree: tree["global_step"])
    assert [tree["global_step"] for tree in trees] == [1, 1, 3, 3]
    assert all(tree["summary"]["leaves"] == LEAVES for tree in trees)
    assert all(0 <= record["data"]["atpo/dump_seconds"] < 1 for record in run.steps())

    index = TreeIndex(tmp_path, tmp_path / "cache")
    assert index.update() == len(trees)
    assert index.progress().last_step == STEPS

    board = event_accumulator.EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    assert [image.step for image in board.Images("atpo/tree/0")] == [1, 3]
    assert "atpo/tree/1" not in board.Tags()["images"]
