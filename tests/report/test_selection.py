"""Selected turns among those that could have been selected, and the hint about slow tools."""

from __future__ import annotations

import logging

import pytest

from verl_atpo.config import ExpansionConfig, Schedule
from verl_atpo.report.selection import SelectedPlace, selected_places, selection_metrics
from verl_atpo.rollout.health.selection_hint import SelectionHint
from verl_atpo.tree.growth import GrownTree, Rollout, Selection
from verl_atpo.tree.tree import ROOT


def tree_of(nlls: list[list[float]], ends: list[float], selected: list[tuple[int, int]]) -> GrownTree:
    """Make a tree of chains with these mean NLLs, the last turn of each final; expansions from (chain, turn) pairs."""
    grown = GrownTree()
    index = {}
    for number, (turns, end) in enumerate(zip(nlls, ends, strict=True)):
        tip = ROOT
        for turn, nll in enumerate(turns):
            last = turn == len(turns) - 1
            tip = grown.tree.add_turn(
                tip, mean_nll=nll, is_leaf=last, reward=0.0 if last else None, sampled_by=number
            ).index
            index[number, turn] = tip
        grown.rollouts.append(Rollout(number, 0, None, [], 0.0, end))
    for number, place in enumerate(selected, start=len(nlls)):
        grown.rollouts.append(Rollout(number, 1, Selection(index[place], 0.0, 0.0, 1, 1), [], 5.0, 9.0))
    return grown


def test_places_by_hand() -> None:
    """Chains 0 and 2 end first. Two were selected; the two most uncertain turns that are not final have 2.0 and 1.5."""
    nlls = [[0.5, 1.5, 9.0], [2.0, 0.1, 0.3], [0.4, 0.2, 0.1], [0.3, 0.3, 0.3]]
    grown = tree_of(nlls, [1.0, 4.0, 2.0, 3.0], [(0, 1), (1, 1)])
    assert selected_places(grown) == [SelectedPlace(True, True), SelectedPlace(False, False)]
    assert selection_metrics(selected_places(grown)) == {"branched_top_share": 0.5, "branched_early_share": 0.5}


def test_a_turn_selected_twice_counts_twice_among_one_most_uncertain() -> None:
    grown = tree_of([[0.5, 0.1], [0.9, 0.1]], [2.0, 1.0], [(1, 0), (1, 0)])
    assert selected_places(grown) == [SelectedPlace(True, True)] * 2


def test_fresh_chains_and_trees_without_expansions_have_no_place() -> None:
    grown = tree_of([[0.5, 0.1], [0.9, 0.1]], [2.0, 1.0], [])
    grown.rollouts.append(Rollout(2, 1, Selection(ROOT, 0.0, 0.0, 1, 1), [], 5.0, 9.0))
    assert selected_places(grown) == [] and selection_metrics([]) == {}


SLOW = {"atpo/branched_early_share": 0.95, "atpo/branched_top_share": 0.39}
FAST = {"atpo/branched_early_share": 0.55, "atpo/branched_top_share": 0.98}
ENTROPY = ExpansionConfig(strategy="entropy")


def test_the_hint_comes_once_after_three_steps_in_a_row(caplog: pytest.LogCaptureFixture) -> None:
    hint = SelectionHint(ENTROPY)
    with caplog.at_level(logging.WARNING):
        for step in (SLOW, SLOW, FAST, SLOW, {}, SLOW):
            hint.look(step)
        assert not caplog.records
        for _ in range(5):
            hint.look(SLOW)
    (record,) = caplog.records
    assert "95 % of the re-sampled turns" in record.message and "39 % are among" in record.message
    assert "start_after=0.5" in record.message and "set it to 1" in record.message


OTHERS = [
    ExpansionConfig(strategy="noise"),
    ExpansionConfig(strategy="entropy", start_after=1.0),
    ExpansionConfig(strategy="entropy", schedule=Schedule.ROUNDS),
]


@pytest.mark.parametrize("expansion", OTHERS, ids=lambda each: f"{each.strategy} {each.schedule} {each.start_after}")
def test_where_it_does_not_apply_there_is_none(expansion: ExpansionConfig, caplog: pytest.LogCaptureFixture) -> None:
    hint = SelectionHint(expansion)
    for _ in range(5):
        hint.look(SLOW)
    assert not caplog.records
