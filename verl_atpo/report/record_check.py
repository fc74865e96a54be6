"""Validation of records of unknown origin: types, ranges, and turns that make a tree.

A record that passes has every field of :data:`NODE`, :data:`TRAJECTORY` and :data:`RECORD`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from verl_atpo.report.plain_json import plain
from verl_atpo.report.record import Record, Summary, summarize

MOST_TURNS = 5000
"""Turns of a tree; more cannot be looked at, and would hold up every page."""
NODE: Mapping[str, Any] = {
    "round": 0, "observation": "", "text": "", "tokens": 0, "mean_nll": None, "is_leaf": False, "reward": None,
    "value": None, "advantage": None,
}  # fmt: skip
TRAJECTORY: Mapping[str, Any] = {
    "number": 0, "leaf": None, "round": 0, "selection": None, "started_s": 0.0, "ended_s": None,
}  # fmt: skip
TOOL_USE: Mapping[str, Any] = {"name": "?", "error": None}
RECORD: Mapping[str, Any] = {
    "data_source": None, "ground_truth": None, "prompt": "", "failed": None, "root_value": None, "trajectories": [],
}  # fmt: skip
SUMMARY: Mapping[str, Any] = {
    "start": None, "prompt": "", "prompt_key": "", "source": None, "outcome": "equal", "reward": None, "rewards": [],
    "leaves": 0, "nodes": 0, "depth": 0, "sampled_tokens": 0, "saved": None, "tool_calls": 0, "tool_errors": 0,
    "outages": None, "diverged": 0, "regrown": 0, "seconds": None,
}  # fmt: skip
RENAMED: Mapping[str, Mapping[str, str]] = {
    "record": {"branches": "trajectories", "picked": "selected"},
    "nodes": {"branch": "trajectory"},
    "trajectories": {"picked": "selection"},
}
"""Names of fields before format 4, and their names since."""
_RECORD = TypeAdapter(with_config(ConfigDict(extra="allow", allow_inf_nan=False))(Record))
_SUMMARY = TypeAdapter(with_config(ConfigDict(allow_inf_nan=False))(Summary))


def check_record(value: Any) -> Record:
    """Check a parsed line; the summary is recomputed, so that table and tree cannot disagree.

    Raises:
        ValueError: the line holds no tree; says why in one line.
    """
    if not isinstance(value, dict) or not isinstance(value.get("nodes"), list):
        raise ValueError("no tree: an object with `nodes` is expected")
    if len(value["nodes"]) > MOST_TURNS:
        raise ValueError(f"{len(value['nodes'])} turns, at most {MOST_TURNS} are shown")
    value = _renamed(value)
    value = {**value, **{name: plain(value.get(name)) for name in ("ground_truth", "extra_info", "credit")}}
    value.pop("summary", None)
    try:
        record: Any = _RECORD.validate_python(_known(value))
    except ValidationError as error:
        raise ValueError(_reason(error)) from None
    for name in ("uid", "global_step"):
        if name not in record:
            raise ValueError(f"{name} is missing")
    record = {**RECORD, **record}
    _check_tree(record["nodes"])
    known = {node["index"] for node in record["nodes"]}
    for trajectory in record["trajectories"]:
        trajectory.update({name: trajectory.get(name, default) for name, default in TRAJECTORY.items()})
        if trajectory["leaf"] not in known:
            trajectory["leaf"] = None
        if "reward_extra" in trajectory:
            trajectory["reward_extra"] = plain(trajectory["reward_extra"])
    return Record(**{"summary": summarize(record), **record})


def check_summary(value: Any) -> Summary:
    """Check the summary that a line begins with.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, dict):
        raise ValueError("no summary: an object is expected")
    try:
        summary: Any = _SUMMARY.validate_python(_known(value))
    except ValidationError as error:
        raise ValueError(_reason(error)) from None
    if "uid" not in summary or "step" not in summary:
        raise ValueError("the summary has no uid or no step")
    whole: dict[str, Any] = {**SUMMARY, **summary}
    return Summary(**whole)  # type: ignore[typeddict-item]


def _renamed(value: dict[str, Any]) -> dict[str, Any]:
    """Give the fields of a record from before format 4 their current names."""

    def current(fields: Any, names: Mapping[str, str]) -> Any:
        if not isinstance(fields, dict):
            return fields
        return {names[key] if key in names and names[key] not in fields else key: fields[key] for key in fields}

    record: dict[str, Any] = current(value, RENAMED["record"])
    for name in ("nodes", "trajectories"):
        if isinstance(record.get(name), list):
            record[name] = [current(each, RENAMED[name]) for each in record[name]]
    return record


def _known(value: Any) -> Any:
    """Leave out null fields: a missing one means the same."""
    if isinstance(value, dict):
        return {key: _known(each) for key, each in value.items() if each is not None}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [_known(each) for each in value]
    return value


def _check_tree(nodes: list[Any]) -> None:
    seen = {0: 0}
    for node in nodes:
        index, parent = node.get("index"), node.get("parent")
        if index is None or index in seen:
            raise ValueError(f"turn {index} is there twice, or has no number")
        if parent not in seen:
            raise ValueError(f"turn {index} follows turn {parent}, which is not before it")
        seen[index] = seen[parent] + 1
        node.update({name: node.get(name, default) for name, default in NODE.items()})
        node["turn"] = seen[index]
        for call in node.get("tool_calls") or []:
            call.update({name: call.get(name, default) for name, default in TOOL_USE.items()})


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
