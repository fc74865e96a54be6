"""Puts what the benchmarks measured into the docs: `python -m benchmarks.report`.

Every block between `<!-- begin NAME -->` and `<!-- end NAME -->` in the pages below is made anew from the files in
`benchmarks/results/`, and the plots in `docs/results/` with it. `--check` writes nothing and fails if a block is not
what the files say.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks import headlines, smollm2
from benchmarks.headlines import RESULTS, read_rows
from benchmarks.lab import agreement, decided, frontier, gradient, profiles, uncertainty
from benchmarks.lab import report as lab
from benchmarks.learning import report as learning
from benchmarks.learning import wall_clock
from benchmarks.packed import goals

ROOT = Path(__file__).parents[1]
_PAGES = ("docs/results.md", "docs/unbiased.md", "docs/scaling.md", "docs/viewer.md", "docs/limits.md", "README.md")
PAGES = tuple(ROOT / page for page in _PAGES)
PLOTS = ROOT / "docs" / "results"
_BLOCK = re.compile(r"(<!-- begin (?P<name>[\w-]+) -->\n).*?(<!-- end (?P=name) -->)", re.DOTALL)


_ROLLOUT = {
    "latency": "tools",
    "schedule": "schedule",
    "leaves_per_s": "leaves/s",
    "leaves_per_s / chains": "leaves/s over chains",
    "leaves_per_s / lock-step": "leaves/s over lock-step",
    "tokens_per_s": "sampled tokens/s",
    "tokens_per_leaf": "sampled tokens/leaf",
    "tokens_per_leaf / chains": "sampled tokens/leaf over chains",
    "busy": "rollout process busy",
}
TABLES = {
    "rollout": (("rollout.json", "rows"), _ROLLOUT),
    "rollout-saturated": (("rollout_saturated.json", "rows"), _ROLLOUT),
    "rollout-scale": (
        ("rollout_scale.json", "rows"),
        {
            "engines": "engines",
            "tools": "tools",
            "continuous, s": "continuous takes, s",
            "engines busy, continuous": "engines busy",
            "leaves_per_s, continuous / chains": "leaves/s, continuous over chains",
            "leaves_per_s, rounds / chains": "rounds over chains",
            "leaves_per_s, continuous / lock-step": "continuous over lock-step",
            "leaves_per_s, rounds / lock-step": "rounds over lock-step",
            "tokens_per_leaf, continuous / chains": "tokens/leaf, continuous over chains",
            "tokens_per_leaf, rounds / chains": "tokens/leaf, rounds over chains",
        },
    ),
    "overhead": (
        ("rollout_overhead.json", "rows"),
        {
            "turns": "turns",
            "prompts": "prompts",
            "sampled turns": "sampled turns",
            "trees, ms/turn": "trees, ms/turn",
            "agent alone, ms/turn": "agent alone, ms/turn",
            "ours, ms/turn": "ours, ms/turn",
            "peak MB/prompt": "peak MB/prompt",
        },
    ),
    "fleet": (
        ("rollout_fleet.json", "fleet"),
        {
            "schedule": "schedule",
            "seconds": "rollout takes, s",
            "first worker, s": "the first worker is done after, s",
            "leaves/s": "leaves/s",
            "sampled tokens/leaf": "sampled tokens/leaf",
            "engines busy": "engines busy",
            "turns/s": "turns/s",
        },
    ),
    "fleet-worker": (
        ("rollout_fleet.json", "worker"),
        {
            "prompts": "prompts",
            "leaves": "leaves",
            "sampled turns": "sampled turns",
            "processor s": "processor time, s",
            "ms/turn": "ms/turn",
            "MB/prompt": "MB/prompt",
        },
    ),
    "fleet-bytes": (
        ("rollout_fleet.json", "bytes"),
        {"what": "mean per leaf", "trees": "trees", "same leaves as chains": "the same leaves as chains"},
    ),
    "fleet-central": (
        ("rollout_fleet.json", "central"),
        {"what": "what", "entries": "entries", "measured": "measured"},
    ),
    "credit": (
        ("credit.json", "rows"),
        {
            "run": "run",
            "trees": "trees with unequal rewards",
            "shared": "trained tokens in shared turns",
            "correlation": "correlation there",
            "difference": "relative difference there",
        },
    ),
    "packed": (
        ("packed.json", "results"),
        {
            "model": "model",
            "scale": "lengths",
            "batch": "batch",
            "mode": "mode",
            "rows_tokens": "tokens in rows",
            "distinct_tokens": "distinct",
            "token_ratio": "rows over run",
            "seconds_verl": "verl, s",
            "seconds_packed": "packed, s",
            "faster": "times faster",
            "faster_cpu": "in processor time",
            "trie_share": "tries, share of packed",
            "peak_over_verl": "peak memory over verl's",
            "max_error": "largest error",
        },
    ),
    "trainers": (
        ("trainers.json", "rows"),
        {
            "rollout": "rollout",
            "trainer": "trainer",
            "steps a minute": "steps a minute",
            "busy": "engine busy",
            "asleep": "asleep for training",
            "waiting": "awake, all branches wait for tools",
        },
    ),
    "packed-runs": (
        ("packed_runs.json", "rows"),
        {
            "task": "task",
            "training": "training on",
            "steps": "steps",
            "reward": "mean reward",
            "row_tokens": "tokens of rows a step",
            "rows over distinct": "rows over distinct",
            "old_log_prob_s": "`old_log_prob`, s",
            "old_log_prob_s per 1,000": "a 1,000 tokens",
            "update_actor_s": "`update_actor`, s",
            "update_actor_s per 1,000": "a 1,000 tokens of it",
            "step_s": "step, s",
        },
    ),
    "loss": (
        ("loss.json", "results"),
        {
            "device": "device",
            "dtype": "log-probs",
            "rows": "rows",
            "tokens": "tokens",
            "turns": "turns/row",
            "atpo_ms": "ms",
            "faster_than_loop": "times faster than the loop",
            "time_over_gspo": "time over gspo",
            "memory_over_gspo": "peak memory over gspo",
        },
    ),
    "viewer": (("viewer.json", "rows"), {"what": "", "measured": "measured", "goal": "at most"}),
}
"""Block -> result file and the key of its rows, and their columns: key -> title."""


def learning_tables() -> str:
    """The learning comparison."""
    return learning.tables(RESULTS / "learning")


def learning_clock() -> str:
    """What is recommended now against GRPO, on the clock."""
    return wall_clock.table(RESULTS / "learning")


def learning_clock_packed() -> str:
    """The same where GRPO is packed too."""
    return wall_clock.table(RESULTS / "learning_packed", wall_clock.PACKED_GRPO)


def learning_clock_merged() -> str:
    """The same with the trees that are recommended now."""
    return wall_clock.table(RESULTS / "learning_merged", wall_clock.PACKED_GRPO)


def _table(source: tuple[str, str], columns: dict[str, str]) -> str:
    """The columns of a file's rows, by title, as a Markdown table."""
    cells = [{title: _cell(row[key]) for key, title in columns.items()} for row in read_rows(*source)]
    return tabulate(cells, headers="keys", tablefmt="github", disable_numparse=True)


def bias() -> str:
    """Trees against an exact gradient."""
    told = json.loads((RESULTS / "bias.json").read_text())
    rows = [
        {
            "trees": row["arm"],
            "value": f"{row['value']:.4f} ± {row['error']:.4f}",
            "cosine": f"{row['cosine']:.4f}",
            "scale": f"{row['scale']:.3f}",
            "worst": f"{row['worst']:.1f}",
            "noise": f"{row['noise']:.2f}",
        }
        for row in told["rows"]
    ]
    said = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    return f"Exact value {told['value']:.4f}; {told['trees']} trees an arm, seed {told['seed']}.\n\n{said}"


def lab_tables() -> str:
    """Costs to reach an accuracy."""
    return lab.tables(RESULTS / "lab")


def lab_clock() -> str:
    """Simulated rollout time to reach an accuracy."""
    return lab.clock(RESULTS / "lab_clock.json", RESULTS / "lab")


def lab_agreement() -> str:
    """The laboratory against verl."""
    return agreement.table(RESULTS / "lab", RESULTS / "learning")


def lab_gradient() -> str:
    """What a step's gradient is worth."""
    return gradient.tables(RESULTS / "lab_gradient.json")


def lab_decided() -> str:
    """When outcomes are decided."""
    return decided.table(RESULTS / "lab_decided.json")


def lab_uncertainty() -> str:
    """Whether a turn's uncertainty is its context's."""
    return uncertainty.table(RESULTS / "lab_uncertainty.json")


BLOCKS: dict[str, Callable[[], str]] = {
    "bias": bias,
    "chosen": headlines.chosen,
    "figure": headlines.figure,
    "headlines": headlines.headlines,
    "lab": lab_tables,
    "lab-agreement": lab_agreement,
    "lab-clock": lab_clock,
    "lab-decided": lab_decided,
    "lab-gradient": lab_gradient,
    "lab-uncertainty": lab_uncertainty,
    "learning": learning_tables,
    "learning-clock": learning_clock,
    "learning-clock-merged": learning_clock_merged,
    "learning-clock-packed": learning_clock_packed,
    "packed-goals": goals.table,
    "smollm2": smollm2.tables,
    **{name: functools.partial(_table, *described) for name, described in TABLES.items()},
}


def filled(text: str) -> str:
    """The page with every block made anew.

    Raises:
        KeyError: a block of an unknown name.
    """
    return _BLOCK.sub(lambda match: f"{match[1]}\n{BLOCKS[match['name']]()}\n\n{match[3]}", text)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if a page is not what the files say")
    options = parser.parse_args()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if not options.check:
            page.write_text(filled(text), encoding="utf-8")
        elif filled(text) != text:
            raise SystemExit(f"{page.name} differs from benchmarks/results: run python -m benchmarks.report")
    if not options.check:
        learning.draw(RESULTS / "learning", PLOTS / "learning.png")
        profiles.draw(RESULTS / "lab", PLOTS / "lab.png")
        frontier.draw(RESULTS / "lab", PLOTS / "lab_frontier.png")


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


if __name__ == "__main__":
    main()
