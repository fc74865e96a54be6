"""Dumps that somebody else made: odd lines are skipped and counted, what is read can be shown, no cache is needed."""

from __future__ import annotations

import copy
import json
import shutil
import sqlite3
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.assets.browser import wait_until
from tests.assets.untrusted import EVIL, NASTY
from verl_atpo.render.colors import ColorBy
from verl_atpo.render.comparison import equal_turns
from verl_atpo.render.explanation import explain, prompt_value, reasons
from verl_atpo.render.export import to_html
from verl_atpo.render.layout import ROOT
from verl_atpo.render.markup import heat_block, row_block, text_block, transcript_block
from verl_atpo.render.picture import draw_tree
from verl_atpo.render.thumbnail import draw_thumbnail
from verl_atpo.render.trajectory import leaf_through, leaves_of, segments, transcript
from verl_atpo.report.dump_reader import OddLine, parse
from verl_atpo.report.record_check import check_record
from verl_atpo.view.demo import demo_trees
from verl_atpo.view.filters import Filters
from verl_atpo.view.index import TreeIndex
from verl_atpo.view.overview import row_of
from verl_atpo.view.run import Run
from verl_atpo.view.selections import GROUPINGS, bars, selections_of, total
from verl_atpo.view.tree_page import settled
from verl_atpo.view.turn_panel import numbers
from verl_atpo.view.validation import read_trajectories, validation_files

GOOD = list(demo_trees(2))


def changed(**fields: Any) -> bytes:
    """A tree of which some fields are odd; ``nodes0`` stands for fields of the first turn."""
    tree = copy.deepcopy(GOOD[0])
    tree["nodes"][0].update(fields.pop("nodes0", {}))
    tree["summary"].update(fields.pop("summary", {}))  # type: ignore[typeddict-item]
    return json.dumps({**tree, **fields}).encode()


ODD: dict[str, bytes] = {
    "no JSON": b"nonsense",
    "no UTF-8": b'{"summary": \xff\xfe}',
    "null bytes": b"\0" * 50,
    "a list": b"[1, 2]",
    "a number": b"7",
    "nested deeply": b"[" * 100_000,
    "nested deeply, head": b'{"summary":' + b'{"a":' * 100_000,
    "no turns": b'{"uid": "u", "global_step": 1}',
    "turns of another kind": changed(nodes={"a": 1}),
    "a turn that is none": changed(nodes=[7]),
    "a text as number": changed(nodes0={"advantage": EVIL}),
    "a list as number": changed(nodes0={"value": [1]}),
    "a number as text": changed(nodes0={"text": 5}),
    "an outcome of its own": changed(summary={"outcome": EVIL}, nodes0={"reward": "x"}),
    "a huge number": changed(nodes0={"mean_nll": 1e300}),
    "an endless number": changed().replace(b'"global_step": 1', b'"global_step": 1' + b"0" * 400),
    "digits without end": changed().replace(b'"global_step": 1', b'"global_step": ' + b"9" * 5000),
    "infinite": changed().replace(b'"root_value": ', b'"root_value": 1e999, "x": '),
    "a turn twice": changed(nodes=[GOOD[0]["nodes"][0]] * 2),
    "a turn before its parent": changed(nodes0={"parent": 3}),
    "a turn after itself": changed(nodes0={"parent": 1}),
    "a negative number": changed(nodes0={"tokens": -1}),
    "no step": changed(global_step=None, summary={"step": None}),
    "a step that is a text": changed(global_step="later", summary={"step": "later"}),
    "too many turns": json.dumps({"uid": "u", "global_step": 1, "nodes": [{}] * 6000}).encode(),
    "a trajectory that is none": changed(trajectories=[[]]),
    "seconds before the start": changed(seconds=-5.0),
}


@pytest.fixture
def index(tmp_path: Path) -> TreeIndex:
    (tmp_path / "run").mkdir()
    return TreeIndex(tmp_path / "run", tmp_path / "cache")


def index_all(index: TreeIndex) -> None:
    index.update()
    while index.add_words():
        pass


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_line_is_skipped_and_counted(index: TreeIndex, kind: str) -> None:
    good = [json.dumps(tree).encode() for tree in GOOD]
    (index.folder / "trees-1.jsonl").write_bytes(b"\n".join([good[0], ODD[kind], good[1], b""]))
    index_all(index)
    progress = index.progress()
    assert (progress.trees, progress.worded, progress.skipped) == (2, 2, 1), progress
    assert f"byte {len(good[0]) + 1} of trees-1.jsonl" in progress.reason and len(progress.reason) < 400
    assert [index.record(row) for row in index.find(Filters(descending=False))] == GOOD
    index_all(index)
    assert index.progress() == progress  # and is not tried again and again


def test_a_dump_of_format_3_reads_as_one_of_format_4() -> None:
    tree = copy.deepcopy(GOOD[0])
    old = {**tree, "format": 3, "branches": tree["trajectories"], "picked": tree["selected"]}
    del old["trajectories"], old["selected"]
    old["nodes"] = [{**node, "branch": node["trajectory"]} for node in tree["nodes"]]
    old["branches"] = [{**each, "picked": each["selection"]} for each in tree["trajectories"]]
    for node in old["nodes"]:
        del node["trajectory"]
    for each in old["branches"]:
        del each["selection"]
    assert tree["selected"] and any(each["selection"] for each in tree["trajectories"])
    assert check_record(old) == {**tree, "format": 3}


def test_what_json_lacks_is_not_known(index: TreeIndex) -> None:
    text = json.dumps(GOOD[0]).replace('"root_value": ', '"root_value": NaN, "x": ').replace('"round": 0', '"round":0')
    assert check_record(parse(text))["root_value"] is None
    halves = json.dumps({**GOOD[0], "prompt": "half \ud800", "ground_truth": {"\ud800": "\udfff"}})
    (index.folder / "trees-1.jsonl").write_text(halves + "\n")
    index_all(index)
    (row,) = index.find(Filters())
    assert index.record(row)["prompt"] == "half \ufffd" and index.progress().skipped == 0


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats()
    | st.sampled_from([EVIL, NASTY, "", "\ud800", "9" * 50])
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


class Tags(HTMLParser):
    """Collects tags, and attributes that could run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.active: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.active += [name for name, value in attrs if name.startswith("on") or "javascript" in (value or "")[:20]]


PASSIVE = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "div", "b", "small", "a", "details", "summary", "pre",
    "span", "svg", "g", "rect", "path", "text", "line", "circle", "polyline",
}  # fmt: skip


def show(record: Any) -> list[str]:
    """Everything that pages make of a tree, as markup."""
    made = [
        to_html(record),
        *(str(draw_tree(record, by=by, folds=True)) for by in ColorBy),
        str(draw_thumbnail(record)),
    ]
    for leaf in leaves_of(record):
        made += [str(transcript_block(transcript(record, leaf), {}, record.get("template") or []))]
        made += [str(row_block(segments(record, leaf), 1.0))]
    for node in record["nodes"]:
        made += [str(text_block(node["text"], [])), str(heat_block(node) or "")]
        json.dumps([explain(record, node), reasons(record, node), numbers(node), leaf_through(record, node["index"])])
    json.dumps(
        [prompt_value(record), sorted(settled(record)), equal_turns(record["nodes"]), leaf_through(record, ROOT)]
    )
    counts = total([selections_of(record)])
    json.dumps([bars(counts[name], name) for name in GROUPINGS])
    return made


SMALL = {**GOOD[0], "nodes": GOOD[0]["nodes"][:3], "trajectories": GOOD[0]["trajectories"][:2]}


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A tree of which up to three fields, of itself, its turns, trajectories or terms, are something else."""
    record: Any = copy.deepcopy(SMALL)
    for _ in range(draw(st.integers(1, 3))):
        places = [
            record,
            *record["nodes"],
            *record["trajectories"],
            *record["nodes"][0]["differences"],
            record["summary"],
        ]
        place = draw(st.sampled_from([each for each in places if isinstance(each, dict) and each]))
        place[draw(st.sampled_from(sorted(place)))] = draw(JSON)
        if not all(isinstance(record[name], list) and all(isinstance(each, dict) for each in record[name])
                   for name in ("nodes", "trajectories")) or not isinstance(record["summary"], dict):  # fmt: skip
            break
        if not record["nodes"] or not isinstance(record["nodes"][0].get("differences"), list):
            break
    return record


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_what_the_check_lets_through_can_be_shown_as_escaped_markup(record: Any) -> None:
    try:
        checked = check_record(parse(json.dumps(record)))
    except (OddLine, ValueError):
        return
    for page in show(checked):
        found = Tags(page)
        assert found.tags <= PASSIVE and not found.active


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(JSON | mutated(), max_size=4))
def test_no_line_ends_the_index(tmp_path: Path, values: list[Any]) -> None:
    folder = tmp_path / "any"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    index = TreeIndex(folder, folder / "cache")
    lines = [json.dumps(each) for each in [GOOD[1], *values]]
    (folder / "trees-1.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogatepass")
    index_all(index)
    progress = index.progress()
    assert progress.trees + progress.skipped == 1 + len(values) and progress.trees >= 1
    for row in index.find(Filters(sort="reward")):
        assert index.record(row)["nodes"] is not None and row_of(row, "")["link"].startswith("/tree/")
    assert index.runs() and index.sources()
    for filters in (Filters(text="a"), Filters(outcome="mixed"), Filters(run=index.runs()[0].name)):
        assert index.count(filters) == len(index.uids(filters))


def test_a_removed_cache_is_made_again(index: TreeIndex) -> None:
    (index.folder / "trees-1.jsonl").write_text("".join(json.dumps(tree) + "\n" for tree in GOOD))
    index_all(index)
    shutil.rmtree(index.path.parent)
    assert index.progress().trees == 0  # pages go on
    index_all(index)
    assert index.progress().trees == 2


def test_a_full_disk_is_said_and_the_index_goes_on_when_there_is_room(
    index: TreeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    (index.folder / "trees-1.jsonl").write_text("".join(json.dumps(tree) + "\n" for tree in demo_trees(60)))
    opened = TreeIndex._open

    def full(self: TreeIndex) -> sqlite3.Connection:
        connection = opened(self)
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    monkeypatch.setattr(TreeIndex, "_open", full)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        index_all(index)
    assert index.progress().trees < 60
    monkeypatch.setattr(TreeIndex, "_open", opened)
    index_all(index)
    assert index.progress().trees == index.progress().worded == 60


def test_the_process_that_indexes_outlives_a_removed_cache_and_is_started_again(tmp_path: Path) -> None:
    folder, cache = tmp_path / "run", tmp_path / "cache"
    folder.mkdir()
    run = Run(folder, cache)
    run.start()
    try:
        (folder / "trees-1.jsonl").write_bytes(b"\n".join([json.dumps(GOOD[0]).encode(), *ODD.values(), b""]))
        wait_until(lambda: run.index.progress().worded == 1, 60)
        wait_until(lambda: run.index.progress().skipped == len(ODD), 60)
        shutil.rmtree(cache)
        wait_until(lambda: run.index.progress().skipped == len(ODD), 60)
        shutil.rmtree(cache)
        cache.write_text("in the way")  # a cache that cannot be made: said, and mended when it can
        wait_until(run.trouble, 60)
        cache.unlink()
        wait_until(lambda: not run.trouble(), 60)
        wait_until(lambda: run.index.progress().worded == 1, 60)
        first = psutil.Process(run._follower.pid)
        first.kill()
        wait_until(lambda: run.trouble() == "" and run._follower.pid != first.pid, 60)
        with (folder / "trees-1.jsonl").open("a") as file:
            file.write(json.dumps(GOOD[1]) + "\n")
        wait_until(lambda: run.index.progress().worded == 2, 60)
    finally:
        run.stop()


def test_odd_validation_files_are_no_trouble(tmp_path: Path) -> None:
    good = json.dumps({"input": EVIL, "output": NASTY, "gts": {"a": [1]}, "score": float("nan"), "acc": 1, "step": 5})
    lines = ["nonsense", "[" * 100_000, "{}", '{"input": 1, "output": "x"}', good]
    (tmp_path / "5.jsonl").write_text("\n".join(lines) + "\n", errors="replace")
    (tmp_path / "7.jsonl").write_text("nonsense\n")
    (tmp_path / "metrics.jsonl").write_text(good)
    assert list(validation_files(tmp_path)) == [5]
    (found,) = read_trajectories(tmp_path / "5.jsonl")
    assert (found.number, found.prompt, found.score, found.extra, found.truth) == (
        4,
        EVIL,
        None,
        {"acc": 1},
        "{'a': [1]}",
    )
