"""The real thing with +train=packed: two steps of ``main_ppo`` on trees, against verl's own engine on the same rows.

verl's own engine has one rank and the packed ones are two, so that rows are dealt to ranks and trees kept together.
"""

from __future__ import annotations

import pytest
import torch

from tests.assets.main_ppo import PROMPTS, Run
from tests.assets.recorded_rows import FOLDER
from tests.e2e.conftest import RECORDS, SAME_FOR_ALL

OWN = ("timing_", "perf/", "atpo/", "packed/", "actor/packed/", "actor/perf/", "training/global_step", "training/epoch")
"""What differs from run to run anyway, or is there in one of them only."""
VALIDATION = "val-"
OF_RANKS = "global_seqlen/"


@pytest.mark.e2e
def test_metrics_equal_those_of_unpacked_rows(plain_run, tmp_path):
    run = Run(
        tmp_path,
        "words_loop",
        *SAME_FOR_ALL,
        "+train=packed",
        f"actor_rollout_ref.model.external_lib=[{RECORDS},verl_atpo.training.activate]",
        "trainer.n_gpus_per_node=2",
        "trainer.val_before_train=False",
        environment={FOLDER: str(plain_run.folder / "recorded")},
    )
    assert run.wait() == 0, run.log[-5000:]
    assert run.left_over() == []
    before, *unpacked_steps = plain_run.steps()
    assert before["step"] == 0
    for unpacked_step, packed_step in zip(unpacked_steps, run.steps(), strict=True):
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
        # Each tree on one rank: no more tokens than in the trees one by one, and fewer where prompts begin alike.
        in_rows, in_trees = recorded_tokens(plain_run.folder / "recorded" / f"{unpacked_step['step']}.pt")
        assert packed["packed/row_tokens"] == in_rows
        assert packed["packed/distinct_tokens"] <= in_trees < in_rows
        assert packed["actor/packed/run_tokens"] * 2 == packed["packed/distinct_tokens"]  # averaged over ranks
    assert packed["actor/kl_loss"] > 1e-4  # after a step the policy has left the reference


def recorded_tokens(file):
    """Tokens in the rows of a step, and distinct ones in each of its trees."""
    fields = torch.load(file, weights_only=False)["fields"]
    rows, uids = [row.tolist() for row in fields["input_ids"].unbind()], list(fields["uid"])
    prefixes = {(uid, *row[:end]) for uid, row in zip(uids, rows, strict=True) for end in range(1, len(row) + 1)}
    return sum(map(len, rows)), len(prefixes)
