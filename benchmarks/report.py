"""Fill the docs with measured results: `python -m benchmarks.report`.

Every block between `<!-- begin NAME -->` and `<!-- end NAME -->` in the pages below is made from the files in
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

from benchmarks import headlines, markdown, smollm2
from benchmarks.bias import regimes
from benchmarks.bias import table as credit_bias
from benchmarks.headlines import RESULTS, read_rows
from benchmarks.lab import agreement, baselines, decided, distance, frontier, gradient, profiles, uncertainty
from benchmarks.lab import report as lab
from benchmarks.learning import report as learning
from benchmarks.learning import wall_clock
from benchmarks.packed import families, goals

ROOT = Path(__file__).parents[1]
_OTHERS = (
    "docs/credit.md",
    "docs/regime.md",
    "docs/unbiased.md",
    "docs/scaling.md",
    "docs/viewer.md",
    "docs/limits.md",
    "README.md",
    "docs/results.md",
    "docs/packed.md",
    "docs/gpu.md",
)
_QUESTIONS = ("tree", "arms", "parts", "gradient", "rollout", "packed", "loss", "language_model", "archive")
PAGES = tuple(ROOT / page for page in (*_OTHERS, *(f"docs/results/{name}.md" for name in _QUESTIONS)))
PLOTS = ROOT / "docs" / "results"
_BLOCK = re.compile(r"(<!-- begin (?P<name>[\w-]+) -->\n).*?(<!-- end (?P=name) -->)", re.DOTALL)


_ROLLOUT = {
    "latency": "tools",
    "schedule": "schedule",
    "leaves_per_s": "leaves/s",
    "leaves_per_s / chains": "leaves/s, ratio to chains",
    "leaves_per_s / lock-step": "leaves/s, ratio to lock-step",
    "tokens_per_leaf / chains": "sampled tokens/leaf, ratio to chains",
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
            "leaves_per_s, continuous / chains": "continuous, ratio to chains",
            "leaves_per_s, rounds / chains": "rounds, ratio to chains",
            "leaves_per_s, continuous / lock-step": "continuous, ratio to lock-step",
            "tokens_per_leaf, continuous / chains": "tokens/leaf, continuous",
            "tokens_per_leaf, rounds / chains": "tokens/leaf, rounds",
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
            "batch": "batch",
            "mode": "mode",
            "token_ratio": "tokens in rows / tokens run",
            "faster_cpu": "times faster than padded rows, processor time",
            "peak_over_verl": "peak memory, ratio to verl",
            "max_error": "largest error",
        },
    ),
    "packed-kinds": (
        ("packed_kinds.json", "results"),
        {
            "model": "model",
            "mode": "mode",
            "token_ratio": "tokens in rows / tokens run",
            "faster_cpu": "times faster than padded rows",
            "faster_cpu_unpadded": "times faster than rows without padding",
            "peak_over_verl": "peak memory",
            "max_error": "largest error",
        },
    ),
    "packed-levels": (
        ("packed_levels.json", "rows"),
        {
            "rows of a prompt": "rows of a prompt",
            "attention, share of a forward's FLOPs": "attention",
            "flex, pairs over visible ones": "FlexAttention: pairs",
            "calls, pairs over visible ones": "calls: pairs",
            "calls, launches": "calls: launches",
            "bytes of calls over flex": "calls: bytes",
            "saved by calls, share of a forward's FLOPs": "saved by calls",
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
            "waiting": "awake, all trajectories wait for tools",
        },
    ),
    "packed-runs": (
        ("packed_runs.json", "rows"),
        {
            "task": "task",
            "training": "training on",
            "reward": "mean reward",
            "rows over distinct": "tokens in rows / distinct",
            "old_log_prob_s per 1,000": "`old_log_prob`, s per 1,000 tokens",
            "update_actor_s per 1,000": "`update_actor`, s per 1,000 tokens",
            "step_s": "step, s",
        },
    ),
    "loss": (
        ("loss.json", "results"),
        {
            "device": "device",
            "dtype": "log-probs",
            "rows": "rows",
            "turns": "turns/row",
            "faster_than_loop": "times faster than the loop",
            "time_over_gspo": "time, ratio to gspo",
            "memory_over_gspo": "peak memory, ratio to gspo",
        },
    ),
    "viewer": (("viewer.json", "rows"), {"what": "", "measured": "measured", "goal": "at most"}),
}
"""Block -> result file and the key of its rows, and their columns: key -> title."""


def learning_tables() -> str:
    """The learning comparison."""
    return learning.tables(RESULTS / "learning.jsonl")


def learning_clock() -> str:
    """Packed trees of 4 + 12 beside GRPO at equal wall clock."""
    return wall_clock.table(RESULTS / "learning.jsonl")


def learning_clock_packed() -> str:
    """Packed trees of 4 + 12 beside packed GRPO at equal wall clock."""
    return wall_clock.table(RESULTS / "learning_packed.jsonl", wall_clock.PACKED_GRPO)


def learning_clock_merged() -> str:
    """Packed trees of 6 + 6 beside packed GRPO at equal wall clock."""
    return wall_clock.table(RESULTS / "learning_merged.jsonl", wall_clock.PACKED_GRPO)


def _table(source: tuple[str, str], columns: dict[str, str]) -> str:
    """The columns of a file's rows, by title, as a Markdown table."""
    return markdown.table([{title: _cell(row[key]) for key, title in columns.items()} for row in read_rows(*source)])


def bias() -> str:
    """Gradients of trees compared with an exact one."""
    result = json.loads((RESULTS / "bias.json").read_text())
    rows = [
        {
            "trees": row["arm"],
            "value": f"{row['value']:.4f} ± {row['error']:.4f}",
            "cosine": f"{row['cosine']:.4f}",
            "scale": f"{row['scale']:.3f}",
            "worst": f"{row['worst']:.1f}",
            "noise": f"{row['noise']:.2f}",
        }
        for row in result["rows"]
    ]
    run = f"Exact value {result['value']:.4f}; {result['trees']} trees an arm, seed {result['seed']}."
    return f"{run}\n\n{markdown.table(rows)}"


def lab_clock() -> str:
    """Simulated rollout time to reach an accuracy."""
    return lab.clock(RESULTS / "lab_clock.json", RESULTS / "lab.jsonl")


def lab_agreement() -> str:
    """The laboratory against verl."""
    return agreement.table(RESULTS / "lab.jsonl", RESULTS / "learning.jsonl")


def lab_gradient() -> str:
    """Quality of one step's gradient."""
    return gradient.tables(RESULTS / "lab_gradient.json")


def lab_baselines() -> str:
    """Variance of outcomes that baselines leave unexplained."""
    return baselines.table(RESULTS / "lab_baselines.json")


def lab_decided() -> str:
    """Share of the outcome's variance that is undecided after each turn."""
    return decided.table(RESULTS / "lab_decided.json")


def lab_uncertainty() -> str:
    """Correlation of a turn's NLL with that of its context."""
    return uncertainty.table(RESULTS / "lab_uncertainty.json")


def packed_families() -> str:
    """Families of models on packs."""
    return markdown.table(families.table(read_rows("packed_families.json", "rows")))


def packed_ranks() -> str:
    """FLOPs that packs save on the slowest rank, a line per kind of rows."""
    rows = [row for row in read_rows("packed_ranks.json", "rows") if row["mini-batches"] == 1]
    lines: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault(row["rows"], {"rows of a prompt": row["rows"]})
        line[f"{row['ranks']} ranks"] = f"{row['cheaper']:.2f}"
    limits = {row["rows"]: f"{row['limit']:.2f}" for row in rows}
    return markdown.table([{**line, "limit": limits[name]} for name, line in lines.items()])


BLOCKS: dict[str, Callable[[], str]] = {
    "packed-ranks": packed_ranks,
    "packed-families": packed_families,
    "bias": bias,
    "credit-bias": credit_bias.arm_table,
    "credit-bias-short": credit_bias.short,
    "credit-bias-worst": credit_bias.worst,
    "regimes": regimes.regimes,
    "chosen": headlines.chosen,
    "figure": headlines.figure,
    "claims": headlines.claims,
    **{
        f"{name}-{task.replace('_', '-')}": functools.partial(made, RESULTS / "lab.jsonl", task)
        for task in lab.TASKS
        for name, made in (
            ("costs", lab.costs),
            ("trained", functools.partial(lab.costs, columns=lab.to_train)),
            ("earlier", lab.earlier_targets),
            ("accuracies", lab.accuracies),
            ("parts", lab.part_table),
        )
    },
    "tuning": functools.partial(lab.tried, RESULTS / "lab.jsonl", "hopqa"),
    "lab-distance": functools.partial(distance.table, RESULTS / "lab.jsonl"),
    "lab-agreement": lab_agreement,
    "lab-baselines": lab_baselines,
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
    """The page with every block remade.

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
        learning.draw(RESULTS / "learning.jsonl", PLOTS / "learning.png")
        profiles.draw(RESULTS / "lab.jsonl", PLOTS / "lab.png")
        frontier.draw(RESULTS / "lab.jsonl", PLOTS / "lab_frontier.png")


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


if __name__ == "__main__":
    main()
