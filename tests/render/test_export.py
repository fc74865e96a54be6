"""A tree as a file: self-contained, without a script, in three forms; and blocks of text that are never markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from tests.assets.untrusted import NASTY
from verl_atpo.render.export import most_informative, to_html, write
from verl_atpo.render.markup import LONGEST, diff_blocks, heat_block, pieces, row_block, text_block
from verl_atpo.render.trajectory import leaves_of, segments
from verl_atpo.report.dump_reader import read_trees
from verl_atpo.view import __main__ as command
from verl_atpo.view.demo import demo_trees, write_demo


class Tags(HTMLParser):
    """Collects tags and attributes as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_a_page_needs_nothing_and_runs_nothing() -> None:
    record = next(demo_trees(1))
    for node in record["nodes"]:
        node["text"] = node["observation"] = NASTY + "</pre></details>"
        del node["token_chars"]
    record.update(prompt=NASTY, uid=NASTY, ground_truth=NASTY, failed=NASTY, data_source=NASTY)
    record["trajectories"][0]["reward_extra"] = {NASTY: NASTY}
    page = Tags(to_html(record))
    assert not {"script", "img", "iframe", "link", "b[x]", "object", "base", "form"} & set(page.tags)
    assert page.tags.count("details") == len(record["nodes"])
    addresses = [value or "" for name, value in page.attributes if name in ("href", "src", "xlink:href", "style")]
    assert all(not re.search("javascript:|https?:", address) for address in addresses)
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_a_page_says_it_all() -> None:
    record = next(demo_trees(1))
    page = to_html(record)
    for node in record["nodes"]:
        assert f'id="turn-{node["index"]}"' in page and f'href="#turn-{node["index"]}"' in page
    assert record["ground_truth"] in page and "answer_words" in page and "trajectory 15" in page


def test_three_forms_and_no_fourth(tmp_path: Path) -> None:
    record = next(demo_trees(1))
    for suffix in (".html", ".svg", ".png"):
        write(record, tmp_path / f"tree{suffix}")
    assert (tmp_path / "tree.svg").read_text().startswith("<svg")
    with Image.open(tmp_path / "tree.png") as image:
        picture = image.convert("RGB")
    assert picture.size[0] > 1000 and len(picture.getcolors(1 << 20) or ()) > 50
    with pytest.raises(ValueError, match=r"\.pdf"):
        write(record, tmp_path / "tree.pdf")


def test_the_command_exports_the_most_telling_tree_or_the_named_one(tmp_path: Path) -> None:
    write_demo(tmp_path / "run", 12)
    trees = read_trees(tmp_path / "run")
    arguments = [str(tmp_path / "run"), "--cache", str(tmp_path / "cache"), "--export"]
    command.main([*arguments, str(tmp_path / "most.html")])
    mixed = [tree for tree in trees if tree["summary"]["outcome"] == "mixed"]
    assert most_informative(mixed)["uid"] in (tmp_path / "most.html").read_text()
    command.main([*arguments, str(tmp_path / "named.svg"), "--tree", trees[0]["uid"]])
    assert trees[0]["uid"] in (tmp_path / "named.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--demo"),
        (["no/such/folder"], "is no folder"),
        ([".", "--export", "tree.pdf"], ".html, .svg, .png"),
        (["EMPTY", "--export", "tree.svg"], "dump_dir"),
        (["EMPTY", "--export", "tree.svg", "--tree", "x"], "no tree x"),
    ],
)
def test_a_wrong_command_says_what_is_right(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    given = [str(tmp_path / "empty") if each == "EMPTY" else each for each in arguments]
    with pytest.raises(SystemExit):
        command.main([*given, "--cache", str(tmp_path)])
    assert words in capsys.readouterr().err


def test_blocks_escape_what_they_are_given() -> None:
    record = next(demo_trees(1))
    node = {"text": NASTY, "token_chars": [len(NASTY) - 3, 3], "token_nll_centinats": [5, 500]}
    one, two = diff_blocks(NASTY, NASTY + "<img src=x onerror=alert(1)>")
    record["nodes"][0]["text"] = NASTY
    row = row_block(segments(record, leaves_of(record)[0]), 1.0)
    for block in (text_block(NASTY, []), text_block(NASTY, [], raw=True), heat_block(node) or "", one, two, row):
        assert {"pre", "span", "ins", "del"} >= set(Tags(str(block)).tags), block
    assert "&lt;script&gt;" in str(text_block(NASTY, []))


def test_long_texts_are_shown_in_part_unless_asked() -> None:
    text = "x" * 100_000
    assert f"{100_000 - LONGEST:,} of 100,000 characters are not shown" in text_block(text, [])
    assert len(text_block(text, [])) < LONGEST + 300 and len(text_block(text, [], whole=True)) > 100_000
    node = {"text": text, "token_chars": [1] * 100_000, "token_nll_centinats": [1] * 100_000}
    assert str(heat_block(node)).count("<span") == LONGEST


def test_a_heat_map_needs_tokens_that_make_the_text() -> None:
    node = {"text": "ab c", "token_chars": [2, 2], "token_nll_centinats": [0, 300]}
    assert pieces(node) == ["ab", " c"]
    assert "title='3.00 nats'> c</span>" in str(heat_block(node))
    assert heat_block({**node, "token_chars": [2, 1]}) is None and heat_block({"text": "ab"}) is None
