"""When outcomes are decided: what is sampled after a chain's turns, and shares of numbers worked out by hand."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from benchmarks.lab import hopqa
from benchmarks.lab.decided import Continued, chain_of, continued, sampled_tokens, summary, table
from benchmarks.lab.engine import Engine


def test_shares_are_of_what_is_open_at_the_prompt_and_ended_chains_count_as_nothing() -> None:
    long = [Continued(0, [0.0, 1.0], [10, 10]), Continued(1, [0.0, 1.0], [4, 6]), Continued(2, [1.0, 1.0], [2, 2])]
    short = [Continued(0, [1.0, 0.0], [6, 14])]
    assert summary([long, short]) == [
        {"turns": 0, "going": 1.0, "undecided": 1.0, "tokens": 1.0},
        {"turns": 1, "going": 0.5, "undecided": 0.5, "tokens": 0.25},
        {"turns": 2, "going": 0.5, "undecided": 0.0, "tokens": pytest.approx(0.1)},
    ]


def test_continuations_begin_with_the_chains_turns() -> None:
    task = hopqa.make_task(2)
    engine, episode = Engine(task.model(), 0, task.end), task.train[0]
    (branch,) = asyncio.run(engine.serve([chain_of(engine, episode, task)]))
    assert sampled_tokens(branch) == sum(branch.output.response_mask)
    before = engine.sampled_tokens
    (found,) = asyncio.run(engine.serve([continued(engine, episode, task, branch, 3)]))
    assert [each.turns for each in found] == list(range(len(branch.turns)))
    assert all(len(each.outcomes) == len(each.tokens) == 3 for each in found)
    assert sum(sum(each.tokens) for each in found) == engine.sampled_tokens - before > 0
    prefix = [generation for turn in branch.turns[:1] for generation in turn.generations]
    (again,) = asyncio.run(engine.serve([chain_of(engine, episode, task, prefix)]))
    assert again.turns[0].token_ids == branch.turns[0].token_ids and again.replayed == len(prefix)


def test_a_row_a_number_of_turns(tmp_path: Path) -> None:
    file = tmp_path / "kept.json"
    assert table(file) == "Nothing is measured yet."
    found = [{"turns": 0, "going": 1.0, "undecided": 1.0, "tokens": 1.0}]
    file.write_text(json.dumps([{"settings": {"task": "hopqa", "world": 1}, "found": found}]))
    *_, row = table(file).splitlines()
    assert [cell.strip() for cell in row.split("|")][1:-1] == ["HopQA, 2 to 6 hops", "1", "0", "100%", "1.00", "1.00"]
