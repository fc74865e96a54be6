"""Turns that say the same are marked, and two trees of a prompt are laid side by side."""

from __future__ import annotations

from typing import Any

import pytest

from verl_atpo.render.comparison import best_path, contexts, equal_turns, same_context, side_by_side, turns_by_words
from verl_atpo.render.picture import draw_tree
from verl_atpo.view.prompt_page import curves, values_by_turn


def node(index: int, parent: int, turn: int, text: str, **known: Any) -> dict[str, Any]:
    ids = [ord(letter) for letter in text]
    return {"index": index, "parent": parent, "turn": turn, "round": 0, "is_leaf": False, "observation": "",
            "text": text, "token_ids": ids, "tokens": len(ids), "mean_nll": 0.5, "value": None, "reward": None,
            "advantage": None, **known}  # fmt: skip


def record(step: int, *nodes: dict[str, Any]) -> dict[str, Any]:
    return {"uid": f"u{step}", "global_step": step, "nodes": list(nodes), "summary": {"reward": 0.5}, "template": []}


EARLY = record(
    1,
    node(1, 0, 1, "look", value=0.25),
    node(2, 1, 2, "no", is_leaf=True, reward=0.0, value=0.0),
    node(3, 1, 2, "yes", is_leaf=True, reward=1.0, value=1.0),
    node(4, 0, 1, "look", value=0.0),
    node(5, 4, 2, "no", is_leaf=True, reward=0.0, value=0.0),
    node(6, 0, 1, "guess", is_leaf=True, reward=0.0, value=0.0),
)
LATE = record(9, node(1, 0, 1, "yes", is_leaf=True, reward=1.0, value=1.0))


def test_turns_of_equal_tokens_in_an_equal_context_are_equal() -> None:
    # nodes 1 and 4 both say "look" after the prompt, so what follows them was sampled in one context
    assert equal_turns(EARLY["nodes"]) == {1: [4], 4: [1], 2: [5], 5: [2]}
    other = [{**each, "observation": str(each["index"])} for each in EARLY["nodes"]]
    assert equal_turns(other) == {}
    old = [{key: value for key, value in each.items() if key != "token_ids"} for each in EARLY["nodes"]]
    assert equal_turns(old) == {1: [4], 4: [1], 2: [5], 5: [2]}  # dumps without token ids: by their text


def test_the_dump_s_contexts_count_where_it_names_them() -> None:
    nodes = [{**each, "context": each["parent"]} for each in EARLY["nodes"]]  # contexts=separate
    assert contexts(nodes) == {1: 0, 2: 1, 3: 1, 4: 0, 5: 4, 6: 0}
    assert equal_turns(nodes) == {1: [4], 4: [1]}
    assert [each["index"] for each in same_context(nodes, nodes[4])] == []


def test_other_turns_of_a_context_are_those_of_the_node_first() -> None:
    assert [each["index"] for each in same_context(EARLY["nodes"], EARLY["nodes"][4])] == [2, 3]
    assert [each["index"] for each in same_context(EARLY["nodes"], EARLY["nodes"][1])] == [3, 5]
    assert [each["index"] for each in same_context(EARLY["nodes"], EARLY["nodes"][0])] == [4, 6]


def test_the_picture_marks_them() -> None:
    assert draw_tree(EARLY).count(">=2<") == 1 + 4  # the legend's, and four turns'
    assert draw_tree(LATE).count(">=2<") == 1


def test_words_of_a_turn_with_their_share_of_leaves_and_mean_reward() -> None:
    assert turns_by_words(EARLY, 1) == {"look": (0.75, pytest.approx(1 / 3)), "guess": (0.25, 0.0)}
    assert turns_by_words(EARLY, 2) == {"no": (0.5, 0.0), "yes": (0.25, 1.0)}
    assert turns_by_words(EARLY, 3) == {}


def test_the_best_trajectories_side_by_side() -> None:
    assert [each["index"] for each in best_path(EARLY)] == [1, 3]
    steps = [(each.number, each.before and each.before["index"], each.after and each.after["index"])
             for each in side_by_side(EARLY, LATE)]  # fmt: skip
    assert steps == [(1, 1, 1), (2, 3, None)]
    assert side_by_side(record(1), record(2)) == []


def test_values_by_turn_and_curves() -> None:
    assert values_by_turn([EARLY, LATE]) == {
        "turn 1": [(1, pytest.approx(0.25 / 3)), (9, 1.0)], "turn 2": [(1, pytest.approx(1 / 3))]
    }  # fmt: skip
    assert curves([EARLY, LATE])["mean turns"] == [(1, 1.75), (9, 1.0)]
