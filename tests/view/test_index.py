"""The index of a dump: read once, extended, torn lines, search and filters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from verl_atpo.report.dump_reader import dump_files, head, new_lines, read_trees
from verl_atpo.report.record import summarize
from verl_atpo.view.demo import demo_trees, write_demo
from verl_atpo.view.filters import Filters, match_expression
from verl_atpo.view.index import TreeIndex

OLD = {
    "uid": "old", "global_step": 3, "data_source": "d", "ground_truth": "x", "prompt": "Who?", "root_value": 0.5,
    "selected": [1], "regrown": 0,
    "nodes": [
        {"index": 1, "parent": 0, "round": 0, "turn": 1, "observation": "", "text": "a", "tokens": 4, "mean_nll": 0.5,
         "is_leaf": True, "reward": 1.0, "value": 1.0, "advantage": 1.0},
        {"index": 2, "parent": 0, "round": 1, "turn": 1, "observation": "", "text": "b", "tokens": 2, "mean_nll": 0.1,
         "is_leaf": True, "reward": 0.0, "value": 0.0, "advantage": -1.0},
    ],
}  # fmt: skip


def line(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"


@pytest.fixture
def index(tmp_path: Path) -> TreeIndex:
    (tmp_path / "run").mkdir()
    return TreeIndex(tmp_path / "run", tmp_path / "cache")


def add_all_words(index: TreeIndex) -> None:
    while index.add_words():
        pass


def test_a_growing_file_is_read_on_from_where_it_was(index: TreeIndex) -> None:
    trees = list(demo_trees(5))
    path = index.folder / "trees-1.jsonl"
    path.write_text("".join(map(line, trees[:2])) + line(trees[2])[:500])
    assert (index.update(), index.update()) == (2, 0)
    with path.open("a") as file:
        file.write(line(trees[2])[500:] + line(trees[3]))
    assert index.update() == 2
    (index.folder / "trees-2.jsonl").write_text(line(trees[4]))
    assert index.update() == 1
    found = index.find(Filters(descending=False))
    assert [index.record(row) for row in found] == trees
    assert [row.summary for row in found] == [tree["summary"] for tree in trees]


def test_an_index_outlives_its_process(index: TreeIndex) -> None:
    (index.folder / "trees-1.jsonl").write_text("".join(map(line, demo_trees(3))))
    index.update()
    again = TreeIndex(index.folder, index.path.parent)
    assert again.progress().trees == 3 and again.update() == 0


@pytest.mark.parametrize("change", ["shorter", "another", "gone"])
def test_an_overwritten_file_is_read_anew(index: TreeIndex, change: str) -> None:
    path = index.folder / "trees-1.jsonl"
    path.write_text("".join(map(line, demo_trees(3))))
    index.update()
    other = list(demo_trees(4, seed=7))
    if change == "gone":
        path.unlink()
    else:
        path.write_text("".join(map(line, other[: 1 if change == "shorter" else 4])))
    index.update()
    expected = {"gone": 0, "shorter": 1, "another": 4}[change]
    assert index.progress().trees == expected
    assert {row.summary["uid"] for row in index.find(Filters())} == {tree["uid"] for tree in other[:expected]}


def test_an_index_that_is_none_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "trees-1.jsonl").write_text("".join(map(line, demo_trees(2))))
    first = TreeIndex(tmp_path, tmp_path / "cache")
    first.path.write_bytes(b"this is no database" * 100)
    second = TreeIndex(tmp_path, tmp_path / "cache")
    assert second.update() == 2


def test_lines_that_are_no_trees_are_counted(index: TreeIndex) -> None:
    tree = line(next(demo_trees(1)))
    (index.folder / "trees-1.jsonl").write_text("nonsense\n\n[1, 2]\n{}\n" + tree + '{"summary": 5}\n')
    assert index.update() == 1
    progress = index.progress()
    assert (progress.trees, progress.skipped) == (1, 4)
    assert "no JSON" in progress.reason and "byte 0 of trees-1.jsonl" in progress.reason


def test_a_dump_from_before_summaries_is_read_too(index: TreeIndex) -> None:
    (index.folder / "trees-1.jsonl").write_text(json.dumps(OLD) + "\n")
    assert index.update() == 1
    (row,) = index.find(Filters(outcome="mixed"))
    assert row.summary == summarize(OLD)
    # 4 tokens of one initial chain; two such chains would be 8 tokens, the tree has 6.
    assert row.summary["saved"] == 0.25 and row.summary["outages"] is None


def test_a_head_is_read_without_the_rest() -> None:
    record = next(demo_trees(1))
    start = line(record).encode()[:3000]
    assert head(start) == record["summary"]
    assert head(b'{"uid": 1') is None and head(b'{"summary":{"uid":"a') is None


def test_lines_are_found_whatever_the_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"first\n\n" + b"x" * 50 + b"\nlast one is torn"
    (tmp_path / "f").write_bytes(content)
    for chunk in (1, 2, 7, 1000):
        monkeypatch.setattr("verl_atpo.report.dump_reader.CHUNK", chunk)
        monkeypatch.setattr("verl_atpo.report.dump_reader.HEAD", 10)
        found = [(each.offset, each.length, start) for each, start in new_lines(tmp_path / "f", "f", 0)]
        assert found == [(0, 5, b"first"), (7, 50, b"x" * 10)]


def test_search_and_filters(index: TreeIndex) -> None:
    trees = list(demo_trees(40))
    trees[3]["nodes"][0]["text"] = "the Größenwahn of 東京の漢字 begins"
    (index.folder / "trees-1.jsonl").write_text("".join(map(line, trees)))
    index.update()
    assert index.find(Filters(text="grossenwahn")) == []
    add_all_words(index)
    for text in ("größenw", '"Größenwahn of"', "京の", '"漢字 begins"', "begins the"):
        assert [row.summary["uid"] for row in index.find(Filters(text=text))] == [trees[3]["uid"]], text
    assert index.count(Filters(text='"begins the"')) == 0 and index.count(Filters(text='"  ')) == 40
    wanted = [
        tree["uid"] for tree in trees
        if tree["summary"]["outcome"] == "mixed" and tree["summary"]["tool_errors"] and 2 <= tree["global_step"] <= 4
    ]  # fmt: skip
    filters = Filters(outcome="mixed", troubles=("tool_errors",), step_from=2, step_to=4, descending=False)
    assert wanted and index.uids(filters) == wanted
    sources = {tree["data_source"] for tree in trees}
    assert set(index.sources()) == sources
    assert sum(index.count(Filters(source=source)) for source in sources) == 40


@pytest.mark.parametrize("text", ['"', "' OR 1 --", "words) NEAR(", "a*b ^c -d", "AND", "\x00", "uid:x", "👍"])
def test_whatever_is_typed_is_no_query_language(index: TreeIndex, text: str) -> None:
    (index.folder / "trees-1.jsonl").write_text("".join(map(line, demo_trees(2))))
    index.update()
    add_all_words(index)
    assert index.count(Filters(text=text, source=text if text != '"' else "")) in (0, 2)


@pytest.mark.parametrize("sort", ["step", "reward", "prompt", "seconds", "saved"])
@pytest.mark.parametrize("descending", [True, False])
def test_every_order_is_an_order(index: TreeIndex, sort: str, descending: bool) -> None:
    (index.folder / "trees-1.jsonl").write_text("".join(map(line, demo_trees(30))))
    index.update()
    filters = Filters(sort=sort, descending=descending)
    values = [row.summary.get(sort) for row in index.find(filters, 30)]
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=descending) and values[: len(known)] == known
    paged = [row.id for at in range(0, 30, 7) for row in index.find(filters, 7, at)]
    assert paged == [row.id for row in index.find(filters, 30)]


@pytest.mark.parametrize(
    "filters",
    [
        Filters(),
        Filters("a b & c", "mixed", ("outages", "regrown"), 3, 9, "source=1", "abc", "trees|20260102", "reward", False),
        Filters(text='"quoted"', step_from=0),
    ],
)
def test_filters_survive_an_address(filters: Filters) -> None:
    from urllib.parse import parse_qsl

    assert Filters.from_query(dict(parse_qsl(filters.to_query()))) == filters


def test_an_address_that_nobody_wrote_is_harmless() -> None:
    query = {
        "outcome": "x",
        "troubles": "uid,drop",
        "step_from": "-1",
        "step_to": "9" * 30,
        "sort": "1; DROP",
        "order": "?",
    }
    assert Filters.from_query(query) == Filters()


def test_a_query_is_made_of_words_and_phrases() -> None:
    assert match_expression('ada "old town" lov') == '"ada"* AND "old town" AND "lov"*'
    assert match_expression("東京") == '"東"* AND "京"*'
    assert match_expression(" - ") == ""


def test_small_dumps_can_be_read_whole(tmp_path: Path) -> None:
    write_demo(tmp_path, 12)
    assert len(dump_files(tmp_path)) == 1
    assert [tree["global_step"] for tree in read_trees(tmp_path)] == sorted(
        tree["global_step"] for tree in demo_trees(12)
    )
    with pytest.raises(FileNotFoundError, match="dump_dir"):
        read_trees(tmp_path / "nothing")
