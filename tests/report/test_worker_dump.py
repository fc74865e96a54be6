"""What the rollout worker dumps, and that nothing of it changes what the trainer gets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.assets.tiny_model import write_model
from tests.assets.worker import Client, Queue, Scorer, make_worker, prompt
from verl_atpo.report.dump_choice import DUMPED
from verl_atpo.report.dump_file import DumpFile
from verl_atpo.report.dump_reader import read_trees
from verl_atpo.report.metrics import step_metrics
from verl_atpo.rollout.manager import TreeAgentLoopManager

TRAIN = {"validate": False, "step": 1, "sample_index": 0, "rollout_n": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    return Queue(monkeypatch)


@pytest.fixture
def worker(model: Path, tmp_path: Path) -> Callable[..., Any]:
    def make(*overrides: str, client: Any = None) -> Any:
        settings = [f"algorithm.atpo.dump_dir={tmp_path}/trees", *overrides]
        return make_worker(model, "words", *settings, client=client, scorer=Scorer(lambda: 0.5))

    return make


async def run(worker: Any, uid: str = "p1", **fields: Any) -> None:
    await worker._run_prompt(prompt(uid, "words", **fields), {"temperature": 1.0}, trajectory=TRAIN)


async def test_a_tree_is_dumped_as_it_was_published(worker: Any, queue: Queue, tmp_path: Path) -> None:
    made = worker()
    await run(made)
    (tree,) = read_trees(tmp_path)
    assert queue.status == {"p1": "finished"} and len(queue.rows["p1"]) == len(tree["trajectories"]) == 3
    assert tree["summary"]["outcome"] == "equal" and tree["extra_info"] == {"index": 7}
    assert tree["trajectories"][2]["selection"] is not None
    for node in tree["nodes"]:
        assert len(node["token_ids"]) == len(node["token_nll_centinats"]) == node["tokens"]
        assert sum(node["token_chars"]) == len(node["text"])
    assert step_metrics(await made.take_stats())["atpo/dump_seconds"] > 0


async def test_only_marked_trees_are_dumped(worker: Any, queue: Queue, tmp_path: Path) -> None:
    made = worker()
    await run(made, "p1", **{DUMPED: torch.tensor(False)})
    await run(made, "p2", **{DUMPED: torch.tensor(1_796_040_181_042)})
    (tree,) = read_trees(tmp_path)
    assert tree["uid"] == "p2" and tree["start"] == tree["summary"]["start"] == "20261130-120301-042"
    assert queue.status == {"p1": "finished", "p2": "finished"}


async def test_a_failed_tree_is_dumped_with_its_reason(worker: Any, queue: Queue, tmp_path: Path) -> None:
    def gone() -> None:
        raise ConnectionError("engine gone")

    await run(worker(client=Client(gone)))
    (tree,) = read_trees(tmp_path)
    assert queue.status == {"p1": "failure"} and tree["summary"]["outcome"] == "failed"
    assert "engine gone" in (tree["failed"] or "") and tree["prompt"] == "w1 w2" and (tree["outages"] or 0) >= 2


async def test_a_full_disk_fails_no_tree(
    worker: Any, queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(DumpFile, "path", property(lambda self: Path("/dev/full")))
    made = worker()
    for uid in ("p1", "p2"):
        await run(made, uid)
    assert queue.status == {"p1": "finished", "p2": "finished"}
    assert len(queue.rows["p1"]) == len(queue.rows["p2"]) == 3
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1 and "No space left on device" in warnings[0].message


async def test_the_loggers_get_as_many_trees_as_they_asked_for(worker: Any, queue: Queue) -> None:
    made = worker("algorithm.atpo.log_trees=2", "algorithm.atpo.dump_dir=null")
    for uid in ("p1", "p2", "p3"):
        await run(made, uid)
    assert [record["uid"] for record in (await made.take_stats()).records] == ["p1", "p2"]
    assert (await made.take_stats()).records == []


def test_the_manager_shows_them_in_the_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[Any, ...]] = []
    monkeypatch.setattr("verl_atpo.rollout.manager.log_trees", lambda *args: shown.append(args))
    manager = TreeAgentLoopManager.__new__(TreeAgentLoopManager)
    manager._records, manager._atpo = ["tree"], type("Atpo", (), {"log_trees": 3})()
    manager._show_trees({"wandb": None}, 7)
    assert shown == [({"wandb": None}, ["tree"], 7, 3)]
