"""The main results in one table: for the first screen of the README and of `docs/results.md`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import markdown
from benchmarks.lab import report as lab
from benchmarks.lab.curves import Curve
from benchmarks.learning import wall_clock

RESULTS = Path(__file__).parent / "results"
RECOMMENDED = "tree_6_states"
"""The laboratory's arm of the trees that these figures are about: 6 + 6 by entropy, merged contexts, softmax."""
Row = dict[str, str]


def read_rows(file: str, key: str) -> list[dict[str, Any]]:
    """The rows of a result file."""
    rows: list[dict[str, Any]] = json.loads((RESULTS / file).read_text())[key]
    return rows


def figure() -> str:
    """The README's one figure, in a sentence."""
    cost = lab.relative_cost(lab.counted(RESULTS / "lab.jsonl", "hopqa"), RECOMMENDED, _target("hopqa"))
    assert cost is not None, "the recommended tree has been run"
    return (
        f"**{100 * (1 - cost.ratio):.0f} % fewer sampled tokens** than GRPO with 16 trajectories to reach\n"
        f"{_target('hopqa'):.0%} on a small multi-hop task, with trees expanded by entropy (95 % CI "
        f"{100 * (1 - cost.high):.0f} to {100 * (1 - cost.low):.0f} %, {cost.runs} paired runs, 0.2 M parameters)."
    )


def chosen() -> str:
    """Costs of the recommended tree, and of GRPO with fewer trajectories beside it, on both tasks."""
    rows = []
    for task, arms in (
        ("hopqa", (RECOMMENDED, CURRENT, "grpo_12", "grpo_8")),
        ("text_world", (RECOMMENDED, CURRENT, "grpo_12")),
    ):
        curves, asked = lab.counted(RESULTS / "lab.jsonl", task), lab.TASKS[task]
        for arm in arms:
            tokens = lab.relative_cost(curves, arm, _target(task))
            steps = lab.relative_cost(curves, arm, _target(task), "step")
            if tokens is None or steps is None:
                continue
            rows.append(
                {
                    "task": f"{asked.short}, to {_target(task):.0%}{asked.of}",
                    "trained with": NAMES[arm],
                    "sampled tokens": tokens.change,
                    "95 % CI": tokens.change_interval,
                    "steps": steps.change,
                    "95 % CI ": steps.change_interval,
                    "paired runs": str(tokens.runs),
                }
            )
    return markdown.table(rows)


CURRENT = "shrunk_6"
"""The laboratory's arm of the preset `tree` of this version."""
NAMES = {
    RECOMMENDED: "tree 6 + 6 by entropy (earlier preset)",
    CURRENT: "tree 6 + 6 by noise (`+atpo=tree`)",
    "grpo_12": "GRPO, 12 trajectories",
    "grpo_8": "GRPO, 8 trajectories",
}


def claims() -> str:
    """Every main result, a line each: what was measured, its uncertainty, on how many runs."""
    return markdown.table([*_learning(), *_wall_clock(), *_speed()])


def _learning() -> Iterator[Row]:
    for task in ("hopqa", "text_world"):
        curves, asked = lab.counted(RESULTS / "lab.jsonl", task), lab.TASKS[task]
        aim = f"{asked.short}, to {_target(task):.0%}{asked.of}"
        for arm, other in ((RECOMMENDED, "grpo"), (RECOMMENDED, "grpo_12"), (RECOMMENDED, "chains_12_states")):
            for cost, name in ((lab.SAMPLED, "sampled tokens"), ("step", "steps")):
                yield from _claim(
                    curves, f"{aim}: {name} of the tree by entropy, relative to {AGAINST[other]}", arm, other, cost
                )
        for arm in (CURRENT, "grpo_12", "grpo_8"):
            for cost, name in ((lab.SAMPLED, "sampled tokens"), ("step", "steps")):
                yield from _claim(
                    curves, f"{aim}: {name} of {NAMES[arm]}, relative to GRPO, 16 trajectories", arm, "grpo", cost
                )


AGAINST = {
    "grpo": "GRPO, 16 trajectories",
    "grpo_12": "GRPO, 12 trajectories",
    "chains_12_states": "12 chains with its credit and loss",
}


def _claim(curves: Sequence[Curve], what: str, arm: str, other: str, cost: str) -> Iterator[Row]:
    target = _target(curves[0].task)
    found = lab.relative_cost(curves, arm, target, cost, other)
    if found is not None:
        yield _row(what, found.change, found.change_interval, str(found.runs), f"{found.p:.2g}")


def _wall_clock() -> Iterator[Row]:
    asked = (RESULTS / "learning_merged.jsonl", wall_clock.PACKED_GRPO, "clock_merged_packed")
    for when, (mean, error, p, seeds) in zip(
        ("equal wall clock", "equal steps"), wall_clock.over_baseline(*asked), strict=True
    ):
        what = f"HopQA in verl, both packed: accuracy of the tree by entropy minus GRPO with 16 trajectories, at {when}"
        yield _row(what, f"{mean:+.1f} points", f"± {error:.1f} (standard error)", str(seeds), f"{p:.2g}")


def _speed() -> Iterator[Row]:
    scale, packed = read_rows("rollout_scale.json", "rows"), read_rows("packed.json", "results")
    for schedule in ("continuous", "rounds"):
        of_chains = [row[f"leaves_per_s, {schedule} / chains"] for row in scale]
        what = f"rollout speed with `schedule={schedule}`, relative to chains (paper's scale, simulated engines)"
        yield _row(what, spread(of_chains, "{:.2f}"), "range over settings", str(len(of_chains)))
    updates = [row["faster_cpu"] for row in packed if row["mode"] == "update" and "chains" not in row["batch"]]
    what = "update on trees with `+train=packed`: times faster than verl on padded rows, processor time on a CPU"
    yield _row(what, spread(updates, "{:.1f}"), "range over settings", str(len(updates)))
    runs = {row["training"]: row for row in read_rows("packed_runs.json", "rows") if row["task"] == "smollm2"}
    what = "SmolLM2-135M in `main_ppo`: whole step with `+train=packed`, times faster than padded rows"
    yield _row(what, f"{runs['rows']['step_s'] / runs['packed']['step_s']:.1f}", "", "1")
    losses = read_rows("loss.json", "results")
    what = "ATPO loss: time relative to verl's `gspo`"
    yield _row(what, spread([row["time_over_gspo"] for row in losses], "{:.2f}"), "range over shapes", str(len(losses)))
    ours = [row["ours, ms/turn"] for row in read_rows("rollout_overhead.json", "rows")]
    what = "processor time that the tree rollout adds to a turn, ms"
    yield _row(what, spread(ours, "{:.2f}"), "range over settings", str(len(ours)))


def _row(what: str, measured: str, uncertainty: str, runs: str, p: str = "") -> Row:
    return {"measured": what, "result": measured, "95 % CI": uncertainty, "runs": runs, "p": p}


def _target(task: str) -> float:
    return lab.TASKS[task].targets[-1]


def spread(values: Sequence[float], form: str) -> str:
    """The smallest and the largest value."""
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"
