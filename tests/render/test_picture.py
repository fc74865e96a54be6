"""The picture of a tree: places, colours, marks, and text that stays text."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageFont

from tests.assets.trees import random_tree
from tests.assets.untrusted import NASTY
from verl_atpo.render.colors import ColorBy, heat, scale_of, shade
from verl_atpo.render.export import to_svg
from verl_atpo.render.layout import ROOT, below, children_of, lay_out, neighbour
from verl_atpo.render.picture import draw_tree
from verl_atpo.render.thumbnail import draw_thumbnail
from verl_atpo.render.timeline import draw_timeline, spans
from verl_atpo.render.trajectory import leaves_of, path_to, segments, trajectory_of
from verl_atpo.view.demo import demo_trees

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
SVG = "{http://www.w3.org/2000/svg}"


def nodes_of(seed: int) -> list[dict[str, Any]]:
    tree = random_tree(seed)
    return [
        {"index": node.index, "parent": node.parent, "turn": tree.depth(node.index), "is_leaf": node.is_leaf}
        for node in tree.nodes[1:]
    ]


@given(st.integers(0, 2000))
def test_every_leaf_has_a_row_and_every_turn_a_column(seed: int) -> None:
    nodes = nodes_of(seed)
    layout = lay_out(nodes)
    leaves = [node for node in nodes if node["is_leaf"]]
    rows = sorted(layout.places[leaf["index"]].row for leaf in leaves)
    assert rows == [float(row) for row in range(len(leaves))] and layout.rows == len(leaves)
    assert all(layout.places[node["index"]].column == node["turn"] for node in nodes)
    assert layout.columns == max(node["turn"] for node in nodes) + 1
    taken = [(place.column, place.row) for place in layout.places.values()]
    assert len(set(taken)) == len(nodes) + 1


@given(st.integers(0, 2000), st.data())
def test_what_is_folded_is_counted(seed: int, data: st.DataObject) -> None:
    nodes = nodes_of(seed)
    children = children_of(nodes)
    folded = set(data.draw(st.lists(st.sampled_from([ROOT, *(node["index"] for node in nodes)]), max_size=3)))
    layout = lay_out(nodes, folded)
    assert len(layout.places) - 1 + sum(place.hidden for place in layout.places.values()) == len(nodes)
    for index, place in layout.places.items():
        expected = below(children, index) if index in folded else []
        assert place.hidden == len(expected)
        assert place.hidden_leaves == sum(nodes[each - 1]["is_leaf"] for each in expected)


def test_arrow_keys_lead_to_neighbours() -> None:
    # 0 - 1 - 3   and   0 - 2: rows 3 -> 0, 2 -> 1, so 1 is in row 0.
    nodes = [{"index": 1, "parent": 0}, {"index": 2, "parent": 0}, {"index": 3, "parent": 1}]
    layout = lay_out(nodes)
    moves = {
        (1, "right"): 3,
        (3, "left"): 1,
        (1, "down"): 2,
        (2, "up"): 1,
        (1, "up"): 1,
        (3, "right"): 3,
        (1, "left"): 0,
    }
    assert {move: neighbour(layout, *move) for move in moves} == moves
    assert neighbour(lay_out(nodes, {1}), 3, "up") == ROOT


def test_a_picture_shows_every_turn_reward_and_pick() -> None:
    record = next(demo_trees(1))
    picture = ElementTree.fromstring(draw_tree(record, selected=3))
    turns = {int(group.get("data-node", -1)) for group in picture.iter(f"{SVG}g")} - {-1}
    assert turns == {ROOT, *(node["index"] for node in record["nodes"])}
    words = "".join(text.text or "" for text in picture.iter(f"{SVG}text"))
    assert words.count("A ") >= len(record["nodes"]) and "selected for re-sampling" in words
    picked_twice = [node for node in set(record["selected"]) if record["selected"].count(node) == 2 and node != ROOT]
    assert words.count("2\u00d7") == len(picked_twice)
    assert not [group for group in picture.iter(f"{SVG}g") if group.get("data-fold")]
    folded = ElementTree.fromstring(draw_tree(record, folded=[ROOT], folds=True))
    assert [group.get("data-fold") for group in folded.iter(f"{SVG}g") if group.get("data-fold")] == ["0"]
    assert len([group for group in folded.iter(f"{SVG}g") if group.get("data-node")]) == 1


@pytest.mark.parametrize("by", ColorBy)
def test_a_picture_holds_no_markup_of_the_model(by: ColorBy) -> None:
    record = next(demo_trees(1))
    for node in record["nodes"]:
        node["text"] = NASTY
    record["prompt"] = record["uid"] = NASTY
    record["nodes"][0].update(mean_nll=None, value=None, advantage=None)
    for drawn in (draw_tree(record, by=by), draw_thumbnail(record), draw_timeline(record) or ""):
        tags = {element.tag.removeprefix(SVG) for element in ElementTree.fromstring(drawn).iter()}
        assert tags <= {"svg", "g", "rect", "path", "text", "title", "line", "circle"}
        assert not re.search("[\x00-\x08\x1b\u202e\ud800]", drawn)


def test_a_tree_without_turns_can_be_drawn() -> None:
    record = {"uid": "u", "global_step": 1, "nodes": [], "failed": "out", "root_value": None}
    assert "prompt" in draw_tree(record) and "circle" in draw_thumbnail(record) and draw_timeline(record) is None


def test_colours_follow_the_numbers() -> None:
    record = {"root_value": 0.5, "nodes": [
        {"advantage": -2.0, "value": 0.0, "mean_nll": 0.1}, {"advantage": 0.5, "value": 1.0, "mean_nll": 2.0},
    ]}  # fmt: skip
    scale = scale_of(record, ColorBy.ADVANTAGE)
    assert (scale.low, scale.middle, scale.high) == (-2.0, 0.0, 2.0)
    assert [scale.strength(number) for number in (-4.0, -1.0, 0.0, 2.0, None)] == [-1.0, -0.5, 0.0, 1.0, None]
    value = scale_of(record, ColorBy.VALUE)
    assert (value.low, value.middle, value.high) == (0.0, 0.5, 1.0)
    assert scale_of({"nodes": []}, ColorBy.NLL).strength(0.05) == 0.5
    assert shade(1.0, ColorBy.VALUE) != shade(-1.0, ColorBy.VALUE) and shade(None, ColorBy.VALUE).fill == "#f1f5f9"
    assert heat(0.0) == "#ffffff" and heat(3.0) == heat(9.0) != heat(1.0)


def test_a_time_line_has_a_bar_per_branch_and_adds_up() -> None:
    record = next(demo_trees(1))
    drawn = draw_timeline(record) or ""
    assert all(f"trajectory {branch['number']}" in drawn for branch in record["trajectories"])
    for branch in record["trajectories"]:
        found = spans(record, branch)
        assert found[0][1] == branch["started_s"] and found[-1][2] == pytest.approx(branch["ended_s"])
        assert all(before[2] == after[1] for before, after in itertools.pairwise(found))
    nodes = {node["index"]: node for node in record["nodes"]}
    first = record["trajectories"][0]
    own = [nodes[index] for index in path_to(record, first["leaf"])]
    generated = sum(end - start for kind, start, end in spans(record, first) if kind == "generation")
    assert generated == pytest.approx(sum(node["generation_s"] for node in own), abs=0.01)


def test_a_row_is_its_turns_and_observations_in_order() -> None:
    record = next(demo_trees(1))
    for leaf in leaves_of(record):
        row, branch = segments(record, leaf), trajectory_of(record, leaf)
        sampled = [each for each in row if each.node is not None]
        assert [each.node for each in sampled] == path_to(record, leaf)
        assert [each.start for each in sampled] == branch["starts"]
        assert sum(each.tokens or 0 for each in row[1:]) == branch["response_tokens"]
        assert all(each.trained == (each.node is not None) for each in row)


def test_a_row_ends_where_the_response_was_cut_off_and_masks_shared_turns() -> None:
    record = next(demo_trees(1))
    leaf = max(leaves_of(record), key=lambda each: len(path_to(record, each)))
    whole = segments(record, leaf)
    branch = dict(trajectory_of(record, leaf))
    second = [each for each in whole if each.node is not None][1]
    branch["response_tokens"], branch["trained_from"] = second.start + 1, second.start
    record["trajectories"] = [branch]
    cut = segments(record, leaf)
    sampled = [each for each in cut if each.node is not None]
    assert [each.trained for each in sampled] == [False, True]
    assert sampled[-1] == dataclasses.replace(second, tokens=1)


Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def boxes(element: ElementTree.Element, x: float = 0.0, y: float = 0.0) -> list[Box]:
    """Where the badges, fold marks and rewards of a picture are."""
    found = []
    for child in element:
        left, top = origin(child, x, y)
        inner = child.find(f"{SVG}rect")
        mark = child.get("class") in ("badge-mark", "fold") or (inner is not None and inner.get("rx") == "9"
                                                                and inner.get("fill") != "none")  # fmt: skip
        if mark and inner is not None:
            found.append((left, top, left + float(inner.get("width", 0)), top + float(inner.get("height", 0))))
        else:
            found += boxes(child, left, top)
    return found


def origin(element: ElementTree.Element, x: float, y: float) -> tuple[float, float]:
    """Where an element's own coordinates start."""
    at = re.match(r"translate\(([-\d.]+) ([-\d.]+)\)", element.get("transform", ""))
    if at:
        return x + float(at[1]), y + float(at[2])
    return (x + float(element.get("x", 0)), y) if element.tag == f"{SVG}svg" else (x, y)


def texts(element: ElementTree.Element, x: float = 0.0, y: float = 0.0, room: float = math.inf) -> list[Box]:
    """Where the texts outside marks are, in the widest font of the list, cut where they are clipped."""
    found = []
    for child in element:
        left, top = origin(child, x, y)
        if child.tag == f"{SVG}text":
            size = float(child.get("font-size", 0))
            font = ImageFont.truetype(str(FONT), 100)
            width = min(font.getlength(child.text or "") * size / 100, room)
            left, baseline = x + float(child.get("x", 0)), y + float(child.get("y", 0))
            found.append((left, baseline - 0.76 * size, left + width, baseline + 0.2 * size))
        elif child.get("class") not in ("badge-mark", "fold") and child.find(f"{SVG}rect[@rx='9']") is None:
            clip = float(child.get("width", math.inf)) if child.tag == f"{SVG}svg" else room
            found += texts(child, left, top, clip)
    return found


def overlap(one: Box, other: Box) -> bool:
    return not (one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1])


def crowded(seed: int, chains: int) -> dict[str, Any]:
    """A tree with many equal turns, some of them selected twice."""
    record = next(demo_trees(1, seed=seed))
    record["nodes"] = [node for node in record["nodes"] if node["trajectory"] < chains]
    there = {node["index"] for node in record["nodes"]}
    for node in record["nodes"]:
        node.update(text="x", token_ids=[1], observation="", advantage=-1.23, value=-0.56)
        del node["context"], node["token_chars"]
    record["selected"] = 2 * [each for each in record["selected"] if each in there]
    return record


@pytest.mark.parametrize("chains", (3, 99))
@pytest.mark.parametrize("seed", range(8))
def test_no_mark_covers_another_or_a_text(seed: int, chains: int) -> None:
    record = crowded(seed, chains)
    drawn = ElementTree.fromstring(draw_tree(record, folds=True, heading=True))
    marks, words = boxes(drawn), texts(drawn)
    assert len(marks) > len(record["nodes"]) and len(words) > 2 * len(record["nodes"])
    assert [pair for pair in itertools.combinations(marks, 2) if overlap(*pair)] == []
    assert [pair for pair in itertools.product(marks, words) if overlap(*pair)] == []


def test_a_tree_of_three_turns_is_readable_on_a_page() -> None:
    record = next(demo_trees(1))
    record["nodes"] = [node for node in record["nodes"] if node["turn"] <= 3]
    drawn = ElementTree.fromstring(draw_tree(record, heading=True))
    smallest = min(float(text.get("font-size", 0)) for text in drawn.iter(f"{SVG}text"))
    assert smallest * 900 / float(drawn.get("width", 0)) >= 12
    assert max(right for _, _, right, _ in texts(drawn)) <= float(drawn.get("width", 0))


def test_an_exported_picture_shows_the_question_and_the_right_answer() -> None:
    record = next(demo_trees(1))
    asked, truth = "What is the birthplace of Sofia Conti (0)?", record["ground_truth"]
    assert asked in record["prompt"] and truth
    words = [text.text for text in ElementTree.fromstring(to_svg(record)).iter(f"{SVG}text")]
    assert words[:2] == [asked, f"Right answer: {truth}"]
    on_the_page = ElementTree.fromstring(draw_tree(record))
    assert asked not in [text.text for text in on_the_page.iter(f"{SVG}text")]
    record["ground_truth"] = ["Oslo", "Christiania"]
    assert "Right answer: Oslo or Christiania" in to_svg(record)
    record["ground_truth"] = None
    assert "Right answer" not in to_svg(record)


def test_a_box_shows_what_the_turn_was_answered() -> None:
    record = next(demo_trees(1))
    record["nodes"] = [node for node in record["nodes"] if node["trajectory"] < 3]
    words = "".join(text.text or "" for text in ElementTree.fromstring(draw_tree(record)).iter(f"{SVG}text"))
    assert "\u2192 " in words and "search(" in words


def test_numbers_that_round_to_zero_have_no_sign_and_no_colour() -> None:
    node = {"index": 1, "parent": 0, "round": 0, "advantage": -0.0012, "value": -0.0, "mean_nll": 0.0, "text": "a"}
    drawn = draw_tree({"nodes": [node], "root_value": -0.001})
    assert "-0.00" not in drawn and "A 0.00" in drawn
    scale = scale_of({"nodes": [node]}, ColorBy.ADVANTAGE)
    assert scale.strength(-0.0012) == scale.strength(0.0) == 0.0 > scale.strength(-0.006)
