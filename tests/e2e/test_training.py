"""The real thing: verl's ``main_ppo`` with Ray, an FSDP2 actor and a vLLM server, on a CPU, with a user's own loop.

Plain steps, and steps of +train=packed on the same rows. All that can be seen in these two runs is tested here: a start
takes longer than the steps.
"""

from __future__ import annotations

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.assets.main_ppo import LEAVES, PROMPTS, Run, check_rewards
from tests.assets.recorded_rows import FOLDER
from tests.assets.words_loop import TURNS
from verl_atpo.view.index import TreeIndex

STEPS = 3
DUMP_EVERY, DUMP_MOST = 2, 2
RECORDS = "tests.assets.recorded_rows"
# One micro-batch and one pack, since verl averages some metrics over them; entropy and a reference model, so that there
# are their metrics, and a policy that moves away from it.
SAME_FOR_ALL = [
    f"trainer.total_training_steps={STEPS}",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32",
    "actor_rollout_ref.actor.entropy_coeff=0.01",
    "actor_rollout_ref.actor.use_kl_loss=True",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=16",
    "actor_rollout_ref.actor.optim.lr=1e-3",
]

OWN = ("timing_", "perf/", "atpo/", "packed/", "actor/packed/", "actor/perf/", "training/global_step", "training/epoch")
"""What differs from run to run anyway, or is there in one of them only."""
VALIDATION = "val-"
OF_RANKS = "global_seqlen/"


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three steps with verl's own engine, a validation before and after them; its rows are kept for other runs."""
    folder = tmp_path_factory.mktemp("plain")
    run = Run(
        folder,
        "words_loop",
        *SAME_FOR_ALL,
        f"actor_rollout_ref.model.external_lib={RECORDS}",
        f"trainer.test_freq={STEPS}",
        environment={FOLDER: str(folder / "recorded")},
    )
    assert run.wait() == 0, run.log[-5000:]
    assert run.left_over() == []
    compiled = [file for file in (folder / "compiled").rglob("*") if file.is_file()]
    assert not compiled, "something was compiled, which takes longer than the steps"
    return run


@pytest.fixture(scope="module")
def packed_run(plain_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Packed training of the plain run's rows; some of the trees that it grew itself are dumped and shown.

    verl's own engine has one rank and the packed ones are two, so that rows are dealt to ranks and trees kept together.
    """
    folder = tmp_path_factory.mktemp("packed")
    run = Run(
        folder,
        "words_loop",
        *SAME_FOR_ALL,
        "+train=packed",
        f"actor_rollout_ref.model.external_lib=[{RECORDS},verl_atpo.packed.activate]",
        "trainer.n_gpus_per_node=2",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        'trainer.logger=["console","file","tensorboard"]',
        f"algorithm.atpo.dump_every={DUMP_EVERY}",
        f"algorithm.atpo.dump_max={DUMP_MOST}",
        "algorithm.atpo.log_trees=1",
        environment={FOLDER: str(plain_run.folder / "recorded"), "TENSORBOARD_DIR": str(folder / "board")},
    )
    assert run.wait() == 0, run.log[-5000:]
    assert run.left_over() == []
    return run


@pytest.mark.e2e
def test_main_ppo_trains_on_trees(plain_run):
    assert [record["step"] for record in plain_run.steps()] == list(range(STEPS + 1))
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
    assert len(trees) == PROMPTS * STEPS
    for tree in trees:
        assert sum(node["is_leaf"] for node in tree["nodes"]) == LEAVES
        assert len(tree["selected"]) == 4
    for step, data in enumerate(trained, start=1):
        check_rewards(trees, step, data)


@pytest.mark.e2e
def test_metrics_equal_those_of_unpacked_rows(plain_run, packed_run):
    before, *unpacked_steps = plain_run.steps()
    assert before["step"] == 0
    for unpacked_step, packed_step in zip(unpacked_steps, packed_run.steps(), strict=True):
        assert unpacked_step["step"] == packed_step["step"]
        unpacked, packed = unpacked_step["data"], packed_step["data"]
        shared = {name for name in unpacked if not name.startswith((*OWN, VALIDATION))}
        compared = {"actor/entropy", "actor/grad_norm", "actor/pg_loss", "actor/kl_loss", "critic/score/mean"}
        assert compared < shared
        assert shared == {name for name in packed if not name.startswith((*OWN, VALIDATION))}
        pairs = {name: (unpacked[name], packed[name]) for name in sorted(shared) if not name.startswith(OF_RANKS)}
        same = {name: two == pytest.approx(one, rel=1e-4, abs=1e-5, nan_ok=True) for name, (one, two) in pairs.items()}
        assert all(same.values()), {name: pair for name, pair in pairs.items() if not same[name]}
        assert packed["packed/row_tokens_over_distinct"] > 1.2
        assert packed["actor/packed/packs"] == 1
        assert packed["atpo/trees"] == PROMPTS
        # Shared prefixes on one rank, but for what ranks exchange so that they end together.
        in_rows, in_trees = recorded_tokens(plain_run.folder / "recorded" / f"{unpacked_step['step']}.pt")
        assert packed["packed/row_tokens"] == in_rows
        assert packed["packed/distinct_tokens"] <= 1.3 * in_trees < in_rows
        assert 1 <= packed["packed/slowest_rank_over_mean"] < 1.3
        assert packed["packed/rows_flops_over_slowest_rank"] > 1
        assert packed["actor/packed/run_tokens"] * 2 == packed["packed/distinct_tokens"]  # averaged over ranks
    assert packed["actor/kl_loss"] > 1e-4  # after a step the policy has left the reference


def recorded_tokens(file):
    """Tokens in the rows of a step, and distinct ones in each of its trees."""
    fields = torch.load(file, weights_only=False)["fields"]
    rows, uids = [row.tolist() for row in fields["input_ids"].unbind()], list(fields["uid"])
    prefixes = {(uid, *row[:end]) for uid, row in zip(uids, rows, strict=True) for end in range(1, len(row) + 1)}
    return sum(map(len, rows)), len(prefixes)


@pytest.mark.e2e
def test_only_the_trees_that_are_asked_for_are_dumped_and_shown(packed_run, tmp_path):
    trees = sorted(packed_run.trees(), key=lambda tree: tree["global_step"])
    steps = range(1, STEPS + 1, DUMP_EVERY)
    assert [tree["global_step"] for tree in trees] == [step for step in steps for _ in range(DUMP_MOST)]
    assert all(tree["summary"]["leaves"] == LEAVES for tree in trees)
    assert all(0 <= record["data"]["atpo/dump_seconds"] < 1 for record in packed_run.steps())

    index = TreeIndex(packed_run.folder, tmp_path / "cache")
    assert index.update() == len(trees)
    assert index.progress().last_step == STEPS

    board = EventAccumulator(str(packed_run.folder / "board"))
    board.Reload()
    assert [image.step for image in board.Images("atpo/tree/0")] == list(steps)
    assert "atpo/tree/1" not in board.Tags()["images"]
