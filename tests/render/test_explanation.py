"""Why a turn is in its tree, in words."""

from __future__ import annotations

import pytest

from verl_atpo.render.explanation import explain, reasons
from verl_atpo.report.record import Record
from verl_atpo.report.record_check import check_record
from verl_atpo.view.demo import demo_trees

TREE = next(iter(demo_trees(1)))


def before_format_4(record: Record) -> Record:
    """The same tree as earlier versions dumped it, as the viewer reads it."""
    old: dict = {**record, "branches": [dict(each) for each in record["trajectories"]], "picked": record["selected"]}
    old["nodes"] = [{**node, "branch": node["trajectory"]} for node in record["nodes"]]
    for branch in old["branches"]:
        branch["picked"] = branch.pop("selection")
    for node in old["nodes"]:
        del node["trajectory"]
    for name in ("trajectories", "selected", "format"):
        old.pop(name)
    return check_record(old)


@pytest.mark.parametrize("record", [TREE, before_format_4(TREE)], ids=["now", "before format 4"])
def test_each_expansion_says_where_it_starts_and_why(record: Record) -> None:
    """Every turn is explained; of each expansion the first one names the turn that was sampled again."""
    expansions = [each for each in record["trajectories"] if each["selection"] is not None]
    assert expansions
    words = {node["index"]: (reasons(record, node), explain(record, node)) for node in record["nodes"]}
    for expansion in expansions:
        own = [node["index"] for node in record["nodes"] if node["trajectory"] == expansion["number"]]
        node = expansion["selection"]["node"]
        assert words[min(own)][0][0].startswith(f"An expansion starts here: node {node} was sampled again, score ")
        assert any(each.startswith("Selected for re-sampling in round ") for each in words[node][0])
    starts = [each for why, _ in words.values() for each in why if each.startswith("An expansion starts here")]
    assert len(starts) == len(expansions)
