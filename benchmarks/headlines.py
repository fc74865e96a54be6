"""The main results in one table: for the first screen of the README and of `docs/results.md`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import markdown
from benchmarks.lab import report as lab
from benchmarks.learning import wall_clock

RESULTS = Path(__file__).parent / "results"
CURRENT, EARLIER = "tree", "tree_6_states"
"""The laboratory's arms of the preset ``tree`` of this version and of the version before."""
ENOUGH = 10
"""Paired runs from which the current preset has the README's figure."""
NAMES = {
    CURRENT: "tree 6 + 6 by noise (`+atpo=tree`)",
    EARLIER: "tree 6 + 6 by entropy (earlier preset)",
    "grpo": "GRPO, 16 trajectories",
    "grpo_12": "GRPO, 12 trajectories",
    "grpo_8": "GRPO, 8 trajectories",
    "chains_12_states": "12 chains with the earlier preset's credit and loss",
}
COMPARED = (
    (CURRENT, "grpo"),
    (CURRENT, "grpo_12"),
    (EARLIER, "grpo"),
    (EARLIER, "grpo_12"),
    (EARLIER, "chains_12_states"),
    ("grpo_12", "grpo"),
    ("grpo_8", "grpo"),
)
"""An arm, and the one that it is compared with."""
Row = dict[str, str]


def read_rows(file: str, key: str) -> list[dict[str, Any]]:
    """Read the rows of a result file."""
    rows: list[dict[str, Any]] = json.loads((RESULTS / file).read_text())[key]
    return rows


def figure() -> str:
    """Return the README's one figure in a sentence: of the current preset once it has enough runs."""
    curves = lab.counted(RESULTS / "lab.jsonl", "hopqa")
    current = lab.relative_cost(curves, CURRENT, _target("hopqa"))
    has_enough = current is not None and current.runs >= ENOUGH
    preset, arm = ("`+atpo=tree`", CURRENT) if has_enough else ("the earlier preset", EARLIER)
    tokens = lab.relative_cost(curves, arm, _target("hopqa"))
    steps = lab.relative_cost(curves, arm, _target("hopqa"), "step")
    assert tokens is not None and steps is not None, "the earlier preset has been run"
    return (
        f"With {preset} an agent reached {100 * _target('hopqa'):.0f} % accuracy on a small multi-hop task with "
        f"**{100 * (1 - tokens.ratio):.0f} % fewer sampled tokens** than\nGRPO with 16 trajectories (95 % CI "
        f"{100 * (1 - tokens.high):.0f} to {100 * (1 - tokens.low):.0f} %). Steps: {steps.change} "
        f"({steps.change_interval}). {tokens.runs} paired runs, 0.2 M parameters."
    )


def chosen() -> str:
    """Costs of both presets, and of GRPO with fewer trajectories beside them, on both tasks."""
    rows = []
    for task in lab.TASKS:
        curves = lab.counted(RESULTS / "lab.jsonl", task)
        for arm in (CURRENT, EARLIER, "grpo_12", "grpo_8"):
            tokens = lab.relative_cost(curves, arm, _target(task))
            steps = lab.relative_cost(curves, arm, _target(task), "step")
            if tokens is None or steps is None:
                continue
            rows.append(
                {
                    "task": lab.TASKS[task].short,
                    "trained with": NAMES[arm],
                    "sampled tokens": tokens.change,
                    "95 % CI of tokens": tokens.change_interval,
                    "steps": steps.change,
                    "95 % CI of steps": steps.change_interval,
                    "paired runs": str(tokens.runs),
                }
            )
    return markdown.table(rows)


def claims() -> str:
    """Every main result, a line each: what was measured, its uncertainty, on how many runs."""
    tables = [(f"{_aim(task)[:1].upper()}{_aim(task)[1:]}:", list(_learning(task))) for task in lab.TASKS]
    tables += [("HopQA in verl, both packed, the earlier preset minus GRPO with 16 trajectories:", list(_wall_clock()))]
    tables += [("Speed:", list(_speed()))]
    return "\n\n".join(f"{title}\n\n{markdown.table(rows)}" for title, rows in tables)


def _aim(task: str) -> str:
    return f"{lab.TASKS[task].short}, to {_target(task):.0%}{lab.TASKS[task].of}"


def _learning(task: str) -> Iterator[Row]:
    curves = lab.counted(RESULTS / "lab.jsonl", task)
    for arm, other in COMPARED:
        for cost, name in ((lab.SAMPLED, "sampled tokens"), ("step", "steps")):
            found = lab.relative_cost(curves, arm, _target(task), cost, other)
            if found is not None:
                yield {
                    "arm": NAMES[arm],
                    "relative to": NAMES[other],
                    "cost": name,
                    "change": found.change,
                    "95 % CI": found.change_interval,
                    "paired runs": str(found.runs),
                    "p": f"{found.p:.2g}",
                }


def _wall_clock() -> Iterator[Row]:
    asked = (RESULTS / "learning_merged.jsonl", wall_clock.PACKED_GRPO, "clock_merged_packed")
    for when, (mean, error, p, seeds) in zip(
        ("equal wall clock", "equal steps"), wall_clock.over_baseline(*asked), strict=True
    ):
        yield {
            "compared at": when,
            "accuracy, percentage points": f"{mean:+.1f}",
            "standard error": f"{error:.1f}",
            "seeds": str(seeds),
            "p": f"{p:.2g}",
        }


def _speed() -> Iterator[Row]:
    scale, packed = read_rows("rollout_scale.json", "rows"), read_rows("packed.json", "results")
    for schedule in ("continuous", "rounds"):
        of_chains = [row[f"leaves_per_s, {schedule} / chains"] for row in scale]
        yield _range(f"rollout with `schedule={schedule}`, ratio to chains (simulated engines)", of_chains)
    updates = [row["faster_cpu"] for row in packed if row["mode"] == "update" and "chains" not in row["batch"]]
    yield _range("update with `+train=packed`, times faster than padded rows, on a CPU", updates, "{:.1f}")
    runs = {row["training"]: row for row in read_rows("packed_runs.json", "rows") if row["task"] == "smollm2"}
    step = runs["rows"]["step_s"] / runs["packed"]["step_s"]
    yield _range("SmolLM2-135M, step with `+train=packed`, times faster than padded rows", [step], "{:.1f}")
    yield _range(
        "ATPO loss, time relative to verl's `gspo`",
        [row["time_over_gspo"] for row in read_rows("loss.json", "results")],
    )
    ours = [row["ours, ms/turn"] for row in read_rows("rollout_overhead.json", "rows")]
    yield _range("processor time that the tree rollout adds to a turn, ms", ours)


def _range(what: str, values: Sequence[float], form: str = "{:.2f}") -> Row:
    return {"measured": what, "range over settings": spread(values, form), "settings": str(len(values))}


def _target(task: str) -> float:
    return lab.TASKS[task].targets[-1]


def spread(values: Sequence[float], form: str) -> str:
    """Format the smallest and the largest value."""
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"
