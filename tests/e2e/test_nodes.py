"""Two Ray nodes: trees grow on both, and a node that dies ends the run, which goes on from its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.assets.main_ppo import LEAVES, PROMPTS, Run, check_trees_of_a_step
from tests.assets.python_path import ROOT
from tests.assets.ray_nodes import Cluster, Node
from tests.assets.search_servers import search_r1_app, served
from tests.assets.searcher_loop import TURNS

STEPS = 2
"""Before a node dies."""


def settings(folder: Path, steps: int) -> list[str]:
    return [
        f"actor_rollout_ref.rollout.multi_turn.tool_config_path={ROOT}/verl_atpo/search_qa/search.yaml",
        "actor_rollout_ref.rollout.agent.num_workers=2",
        "trainer.nnodes=2",
        f"trainer.rollout_data_dir={folder}/rows",
        f"trainer.total_training_steps={steps}",
        "trainer.save_freq=1",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
    ]


def dumps_of(folder: Path, node: Node) -> list[Path]:
    """Files of the trees that grew on a node."""
    numbers = {worker.pid for worker in node.workers("TreeAgentLoopWorker")}
    assert len(numbers) == 1
    return [file for file in folder.glob("trees/*.jsonl") if int(file.name.split("-")[-3]) in numbers]


@pytest.mark.e2e
def test_two_nodes_train_and_one_of_them_dies(tmp_path):
    with served(search_r1_app(always_without_scores=False)) as search, Cluster(tmp_path, nodes=2) as cluster:
        environment = {"SEARCH_URL": search, **cluster.variables}
        run = Run(tmp_path, "searcher_loop", *settings(tmp_path, 100), environment=environment)
        run.wait_for_step(STEPS)
        dumps = [dumps_of(tmp_path, node) for node in cluster.nodes]
        replicas = [node.workers("vLLMHttpServer") for node in cluster.nodes]
        cluster.nodes[1].kill()
        assert run.wait(300) != 0
        assert "ActorDiedError" in run.log or "ActorUnavailableError" in run.log
        check_both(run, dumps, replicas)
        assert cluster.token not in run.log

        done = int((tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").read_text())
        assert done >= STEPS
        cluster.wait_until_dead(cluster.nodes[1])
        cluster.add()
        again = Run(tmp_path, "searcher_loop", *settings(tmp_path, done + 1), environment=environment)
        assert again.wait() == 0, again.log[-5000:]
        assert [record["step"] for record in again.steps()] == [done + 1]
        check_trees_of_a_step(again, done + 1, again.steps()[0]["data"])


def check_both(run: Run, dumps: list[list[Path]], replicas: list[list[object]]) -> None:
    """Each node had an engine and grew whole trees, in a file of its own, whose searches were answered."""
    assert [len(each) for each in replicas] == [len(each) for each in dumps] == [1, 1]
    trained = set()
    for record in run.steps()[:STEPS]:
        data = record["data"]
        trained |= check_trees_of_a_step(run, record["step"], data)
        assert (data["atpo/trees"], data["atpo/leaves_per_tree"], data["atpo/depth/mean"]) == (PROMPTS, LEAVES, TURNS)
        assert data["atpo/tool_outages"] == 0
        assert data["actor/grad_norm"] > 0
    assert len(trained) == STEPS * PROMPTS
    grown = [{json.loads(line)["uid"] for line in file.read_text().splitlines()} for (file,) in dumps]
    assert not grown[0] & grown[1]
    assert trained <= grown[0] | grown[1]
    assert all(len(uids & trained) == STEPS * PROMPTS // 2 for uids in grown)
