"""From a grown tree to a line of a dump: all that the viewer shows is there and true; what goes wrong hurts no tree."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import re
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from verl.utils.tensordict_utils import assign_non_tensor_data

from tests.assets.fakes import FakeEngine, FakeLoop, run_loop_with
from tests.assets.trees import credit_of, outputs_of
from verl_atpo.config import (
    AdvantageMode,
    AtpoConfig,
    Contexts,
    CreditConfig,
    ExpansionConfig,
    GrowthConfig,
    Penalty,
    Schedule,
    SharedTurns,
)
from verl_atpo.failure import EngineOutage, ToolOutage, brief
from verl_atpo.method.credit import node_values
from verl_atpo.method.scheme import find_scheme
from verl_atpo.render.trajectory import segments
from verl_atpo.report.describe import TreeDescriber
from verl_atpo.report.dump import TreeDump
from verl_atpo.report.dump_choice import DUMPED, DumpChoice, take_mark
from verl_atpo.report.dump_file import DumpFile
from verl_atpo.report.dump_reader import read_trees
from verl_atpo.report.metrics import WorkerStats, step_metrics, tree_stats
from verl_atpo.report.record import Record
from verl_atpo.report.run_file import start_name
from verl_atpo.rollout.grower import TreeGrower
from verl_atpo.rollout.rows import leaf_outputs
from verl_atpo.tree import contexts
from verl_atpo.tree.growth import GrownTree
from verl_atpo.tree.tree import ROOT

PROMPT = {
    "uid": "u<1>", "global_steps": np.int64(3), "data_source": "d", "reward_model": {"ground_truth": "<right>"},
    "extra_info": {"hops": np.int64(2), "array": np.ones(2)},
}  # fmt: skip


class Words:
    """A tokenizer whose tokens are numbers."""

    all_special_tokens = ("99", "nowhere")

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids))

    def batch_decode(self, batch: list[list[int]], skip_special_tokens: bool) -> list[str]:
        return [self.decode(ids, skip_special_tokens) for ids in batch]


class Bytes:
    """A tokenizer of bytes, some of which are but parts of a character."""

    all_special_tokens = ()

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return bytes(ids).decode("utf-8", "replace")

    batch_decode = Words.batch_decode


def config(**credit: Any) -> AtpoConfig:
    expansion = ExpansionConfig(3, 2, 2, schedule=Schedule.ROUNDS, penalty_counts=Penalty.SIBLINGS)
    return AtpoConfig(expansion=expansion, growth=GrowthConfig(0, 0.0), credit=CreditConfig(**credit))


async def grow(seed: int = 0, stop: float = 0.3, fail: float = 0.0) -> GrownTree:
    run_loop = run_loop_with(FakeEngine(seed, stop=stop, fail=fail), FakeLoop(5))
    return await TreeGrower(config(), run_loop, random.Random(0)).grow()


async def described(grown: GrownTree, tokenizer: Any = None, **credit: Any) -> Record:
    describer = TreeDescriber(tokenizer or Words(), config(**credit))
    return describer.record(grown, credit_of(grown, config(**credit).credit), PROMPT, seconds=1.23456)


async def test_a_line_holds_the_tree(tmp_path: Path) -> None:
    grown = await grow()
    describer = TreeDescriber(Words(), config())
    dump = TreeDump(str(tmp_path / "trees"))
    written = await dump.write(lambda: describer.record(grown, credit_of(grown), PROMPT, seconds=1.23456))
    (tree,) = read_trees(tmp_path)
    assert written is not None and tree["summary"] == written["summary"]
    assert (tree["uid"], tree["global_step"], tree["ground_truth"]) == ("u<1>", 3, "<right>")
    assert (tree["prompt"], tree["prompt_tokens"], tree["seconds"]) == ("1 2 3", 3, 1.235)
    assert tree["extra_info"] == {"hops": 2, "array": [1.0, 1.0]} and tree["template"] == ["99"]
    values = node_values(grown.tree, CreditConfig().backup)
    assert len(tree["nodes"]) == len(grown.tree.nodes) - 1
    for node in tree["nodes"]:
        turn = grown.tree.turn(node["index"])
        assert node["text"] == " ".join(map(str, turn.token_ids)) and node["token_ids"] == turn.token_ids
        assert node["value"] == values[node["index"]]
        nlls = [-each for generation in turn.generations for each in generation.output.log_probs]
        assert np.allclose(np.array(node["token_nll_centinats"]) / 100, nlls, atol=0.0051)
        assert node["observation"] == ("" if node["parent"] == ROOT else " ".join(map(str, turn.observed_ids)))


@pytest.mark.parametrize(
    "credit", [{"scheme": "shrunk"}, {"advantage": AdvantageMode.DIFF_LOCALGLOBAL}], ids=["shrunk", "merged"]
)
async def test_values_and_contexts_of_a_tree_are_computed_once(credit, monkeypatch) -> None:
    calls = Counter[str]()

    def counted(owner: Any, name: str) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **more: (calls.update([name]), original(*args, **more))[1])

    settings = config(contexts=Contexts.MERGED, **credit)
    scheme, grown = find_scheme(settings), await grow()
    counted(contexts, "_grouped")
    counted(type(scheme), "evaluate")
    found = scheme.credit(grown.tree, grown.paths)
    assert len(list(leaf_outputs(grown, found, settings.credit.shared_turns))) == len(grown.leaves)
    assert tree_stats(grown, 1.0, found).leaves == len(grown.leaves)
    record = TreeDescriber(Words(), settings).record(grown, found, PROMPT, seconds=1.0)
    assert record["root_value"] == found.values[ROOT]
    assert calls == {"_grouped": 1, "evaluate": 1}


@pytest.mark.parametrize("shared_turns", SharedTurns)
async def test_the_row_of_a_record_is_the_row_of_the_trainer(shared_turns: SharedTurns) -> None:
    grown = await grow(stop=0.1)
    record = await described(grown, shared_turns=shared_turns)
    rows = outputs_of(grown, config(shared_turns=shared_turns).credit)
    for branch, own, output in zip(record["trajectories"], grown.trajectories, rows, strict=True):
        mask, sampled = list[int](), list[int]()
        for segment in segments(record, branch["leaf"])[1:]:
            assert segment.start == len(mask)
            mask += [int(segment.trained)] * (segment.tokens or 0)
            if segment.node is not None:
                sampled += record["nodes"][segment.node - 1]["token_ids"]
        length = len(mask)  # a short row has masked tokens after its end, which have room for credit
        assert mask == output.response_mask[:length] and not any(output.response_mask[length:])
        assert branch["response_tokens"] == length and branch["reward"] == output.reward_score
        marked = zip(output.response_ids[:length], own.output.response_mask, strict=True)
        assert sampled == [token for token, by_policy in marked if by_policy]


async def test_every_branch_says_why_it_began_where_it_did() -> None:
    grown = await grow(stop=0.1)
    record = await described(grown)
    assert [branch["selection"] is None for branch in record["trajectories"]] == [True] * 3 + [False] * 4
    for branch in record["trajectories"][3:]:
        pick = branch["selection"]
        assert pick is not None
        index = pick["node"]
        assert index == grown.selected[branch["number"] - 3]
        node = grown.tree.nodes[index]
        assert pick["score"] == pytest.approx((node.mean_nll or 0.0) - pick["penalty"], abs=2e-4)
        before = [each for each in grown.tree.nodes if each.round < branch["round"]]
        assert pick["candidates"] == sum(not each.is_leaf for each in before)
        # alpha 0.05 on all siblings but one, as they were then
        parent = grown.tree.nodes[ROOT if index == ROOT else node.parent]
        siblings = sum(grown.tree.nodes[child].round < branch["round"] for child in parent.children)
        assert pick["penalty"] == pytest.approx(0.05 * (siblings - 1))
    first = [
        branch["selection"]["rank"] for branch in record["trajectories"] if branch["round"] == 1 and branch["selection"]
    ]
    assert first == [1, 2]


async def test_times_are_those_of_the_engine_and_in_order() -> None:
    grown = await grow()
    for number in range(1, len(grown.tree.nodes)):
        for generation in grown.tree.turn(number).generations:
            generation.started_s, generation.ended_s = 100.0 + number, 100.25 + number
    record = await described(grown)
    own = [node for node in record["nodes"] if node["trajectory"] == 0]
    assert all(node["generation_s"] == 0.25 for node in record["nodes"])
    assert [node.get("tool_s") for node in own] == [0.75] * (len(own) - 1) + [None]


async def test_the_clock_runs_while_the_engine_works() -> None:
    grown = await grow()
    stamps = [stamp for turn in grown.trajectories[0].turns for stamp in (turn.started_s, turn.ended_s)]
    assert stamps == sorted(stamps) and stamps[0] > 0


async def test_failures_are_counted_and_named() -> None:
    grown = await grow()
    grown.rollouts[1].failures += [ToolOutage("search is out"), ConnectionError("engine gone")]
    grown.rollouts[2].failures.append(KeyError("a bug"))
    record = TreeDescriber(Words(), config()).record(grown, credit_of(grown), PROMPT, seconds=1.0)
    assert record["outages"] == 2 == record["summary"]["outages"]
    assert record["trajectories"][1]["failures"] == ["ToolOutage: search is out", "ConnectionError: engine gone"]
    assert record["trajectories"][0]["failures"] == []


async def test_a_failed_tree_keeps_what_there_is_of_it() -> None:
    for seed in range(60):
        run_loop = run_loop_with(FakeEngine(seed, stop=0.3, fail=0.05), FakeLoop(5))
        grower = TreeGrower(config(), run_loop, random.Random(0))
        try:
            await grower.grow()
        except EngineOutage as error:
            prompt = {**PROMPT, "raw_prompt": [{"role": "user", "content": "who?"}]}
            record = TreeDescriber(Words(), config()).record(
                grower.grown, credit_of(grower.grown), prompt, seconds=1.0, failed=brief(error)
            )
            assert record["summary"]["outcome"] == "failed" and "engine gone" in (record["failed"] or "")
            ended = [branch for branch in record["trajectories"] if branch["leaf"] is not None]
            assert len(record["trajectories"]) == len(grower.grown.rollouts) > len(ended)
            assert all("reward" in branch for branch in ended)
            assert record["prompt"] == ("1 2 3" if record["nodes"] else "who?")
            if record["nodes"] and ended:
                return
    raise AssertionError("no tree failed after its first round")


async def test_tokens_that_are_parts_of_a_character_are_told_apart() -> None:
    describer = TreeDescriber(Bytes(), config())  # type: ignore[arg-type]
    ids = list("aé漢b".encode())
    assert describer._chars(ids, "aé漢b") == [1, 0, 1, 0, 0, 1, 1]
    assert TreeDescriber(Words(), config())._chars([1, 22], "1 22") == [1, 3]  # type: ignore[arg-type]
    assert TreeDescriber(Words(), config())._chars([1, 2], "12 3") is None  # type: ignore[arg-type]


def test_marks_are_at_most_so_many_a_step_in_batch_order() -> None:
    choice = DumpChoice(every=2, most=3)
    assert choice.marks(1, 2) == [True, True]
    assert choice.marks(1, 2) == [True, False]  # those that replace failed ones
    assert choice.marks(2, 2) == [False, False]
    assert choice.marks(3, 4) == [True, True, True, False]
    assert [DumpChoice(1, None).marks(step, 1) for step in (1, 2, 7)] == [[True]] * 3


def test_a_batch_of_verl_is_marked_row_by_row_unless_it_validates() -> None:
    batch = TensorDict({"x": torch.zeros(3)}, batch_size=[3])
    assign_non_tensor_data(batch, "global_steps", 1)
    choice = DumpChoice(1, 2)
    choice.mark(batch)
    marks = [part[DUMPED].tolist() for part in batch.chunk(2)]
    assert [[bool(each) for each in part] for part in marks] == [[True, True], [False]]
    chosen, start = take_mark({DUMPED: batch[DUMPED][0]})
    assert chosen and start is not None and re.fullmatch(r"20\d{6}-\d{6}-\d{3}", start)
    assert take_mark({DUMPED: batch[DUMPED][2]}) == (False, None) and take_mark({}) == (True, None)
    assert start_name(1_796_040_181_042) == "20261130-120301-042"
    validation = TensorDict({"x": torch.zeros(3)}, batch_size=[3])
    assign_non_tensor_data(validation, "validate", True)
    choice.mark(validation)
    assert DUMPED not in validation


def test_a_file_that_is_full_is_followed_by_the_next(tmp_path: Path) -> None:
    file = DumpFile(tmp_path / "trees", rotate_bytes=25)
    for number in range(5):
        file.append(b"0123456789" + str(number).encode() + b"\n")
    written = sorted((tmp_path / "trees").iterdir())
    assert [len(path.read_bytes()) for path in written] == [24, 24, 12]
    lines = b"".join(path.read_bytes() for path in written).split()
    assert lines == [b"0123456789" + str(number).encode() for number in range(5)]
    assert DumpFile(tmp_path).path != DumpFile(tmp_path).path


@contextlib.contextmanager
def small_disk() -> Iterator[None]:
    """No file of this process can grow beyond 10 bytes: the kernel takes what fits, then refuses."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_ends_dumping_with_one_warning_and_no_torn_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = DumpFile(tmp_path)
    with small_disk():
        for line in (b"whole\n", b"too long for it\n", b"later\n", b"x\n"):
            file.append(line)
    assert file.path.read_bytes() == b"whole\n" and file.stopped
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "File too large" in warning and "training continues" in warning


async def test_a_tree_that_cannot_be_described_is_skipped_and_the_next_is_dumped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dump = TreeDump(str(tmp_path))

    def broken() -> Record:
        raise KeyError("a bug")

    for _ in range(5):
        assert await dump.write(broken) is None
    grown = await grow()
    describer, credit = TreeDescriber(Words(), config()), credit_of(grown)
    assert await dump.write(lambda: describer.record(grown, credit, PROMPT, seconds=1.0)) is not None
    assert len(read_trees(tmp_path)) == 1 and dump.skipped == 5
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"A tree could not be dumped ({number} so far); training continues" for number in (1, 2, 4)
    ]


async def test_records_are_made_without_a_folder_too() -> None:
    grown = await grow()
    record = await TreeDump(None).write(
        lambda: TreeDescriber(Words(), config()).record(grown, credit_of(grown), PROMPT, seconds=1.0)
    )
    assert record is not None and json.dumps(record["summary"])


async def test_dump_and_metrics_say_the_same_of_saved_tokens() -> None:
    """With tries that failed, whose tokens count; 1 - sampled / (leaves x mean of the initial chains)."""
    grown = await grow(stop=0.1)
    grown.rollouts[1].sampled_tokens += 7  # a try that died
    summary = (await described(grown))["summary"]
    stats = tree_stats(grown, 1.0)
    metrics = step_metrics(WorkerStats([stats]))
    assert summary["sampled_tokens"] == stats.sampled_tokens == metrics["atpo/sampled_tokens"]
    assert summary["saved"] == pytest.approx(metrics["atpo/saved_tokens_share"])
    chains = [
        sum(len(turn.token_ids) for turn in rollout.trajectory.turns)
        for rollout in grown.rollouts
        if rollout.selection is None
    ]
    assert summary["saved"] == pytest.approx(
        1 - stats.sampled_tokens / (len(grown.trajectories) * sum(chains) / len(chains))
    )
