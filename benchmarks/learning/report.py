"""Tables and plots of the learning comparison, from its result files."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import markdown
from benchmarks.learning.arms import ABLATIONS, ARMS, ATPO, BASELINES, CLIPS, PARTS, SETTINGS
from benchmarks.learning.curves import Run, common_tokens, last_accuracy, paired, points, read_runs, share

(OURS,) = ATPO
WIDER, WIDER_AGAINST = "atpo_clip0.04", ("grpo", "gspo_clip0.04", "tree_grpo")
Curve = tuple[Sequence[float], Sequence[float]]
Figure = Callable[[Run], float]


def tables(results: Path) -> str:
    """Write all tables in Markdown."""
    runs = _runs(results)
    if not runs:
        return "No run is done yet."
    budgets = common_tokens(runs)
    parts = [
        f"{len(runs)} of {sum(len(arm.seeds) for arm in ARMS.values())} runs are done.\n"
        f"Runs of a seed are compared at the tokens that all of them have sampled: {_of_seeds(budgets)}.",
        comparison(runs, [*BASELINES, OURS], budgets, OURS),
        "Components, settings and clip ranges:",
        comparison(runs, [OURS, *ABLATIONS, *SETTINGS, *CLIPS], budgets, OURS),
        "What each part adds, paired by seed, in percentage points:",
        parts_table(runs, budgets),
        *with_wider_clip(runs),
        "Validation accuracy of the last step by number of hops, mean over seeds:",
        by_hops(runs),
        "What happened in training, mean over steps and seeds:",
        diagnostics(runs),
    ]
    return "\n\n".join(parts)


def with_wider_clip(runs: Sequence[Run]) -> list[str]:
    """AT²PO with a clip range for small models against others, on the seeds it has; nothing if it has none."""
    same = _compared_with_wider(runs)
    if not same:
        return []
    budgets = common_tokens(same)
    intro = f"{ARMS[WIDER].title}, against others on the same seeds, compared at {_of_seeds(budgets)}:"
    return [intro, comparison(same, [*WIDER_AGAINST, OURS, WIDER], budgets, WIDER)]


def _compared_with_wider(runs: Sequence[Run]) -> list[Run]:
    seeds = {run.seed for run in runs if run.arm == WIDER}
    return [run for run in runs if run.seed in seeds and run.arm in (*WIDER_AGAINST, OURS, WIDER)]


def comparison(runs: Sequence[Run], arms: Sequence[str], budgets: Mapping[int, float], ours: str) -> str:
    """Write a row per arm, compared at each seed's tokens; differences are `ours` minus the arm, on common seeds."""
    _, at_equal_tokens = _figures(budgets)
    title = ARMS[ours].title
    rows = []
    for arm in arms:
        own = [run for run in runs if run.arm == arm]
        if not own:
            continue

        def minus(figure: Figure, arm: str = arm) -> str:
            return "" if arm == ours else points(paired(runs, ours, arm, figure))

        rows.append(
            {
                "arm": ARMS[arm].title,
                "seeds": len(own),
                "accuracy at equal tokens": share([at_equal_tokens(run) for run in own]),
                "difference at equal tokens": minus(at_equal_tokens),
                "accuracy after the last step": share([last_accuracy(run) for run in own]),
                "difference after the last step": minus(last_accuracy),
                "M tokens": f"{statistics.fmean(run.tokens[-1] for run in own) / 1e6:.2f}",
            }
        )
    return f"Differences are {title} minus the arm, in percentage points.\n\n{markdown.table(rows)}"


def parts_table(runs: Sequence[Run], budgets: Mapping[int, float]) -> str:
    """Make one row for each of `PARTS` whose two arms share a seed."""
    on_the_way, at_equal_tokens = _figures(budgets)
    figures: dict[str, Figure] = {
        "on the way": on_the_way,
        "at equal tokens": at_equal_tokens,
        "after the last step": last_accuracy,
    }
    rows = []
    for _, having, lacking in PARTS:
        found = {name: paired(runs, having, lacking, figure) for name, figure in figures.items()}
        if (first := found["on the way"]) is not None:
            arms = {"with it": ARMS[having].title, "without it": ARMS[lacking].title}
            rows.append(
                arms | {"seeds": first.seeds} | {name: points(difference) for name, difference in found.items()}
            )
    return markdown.table(rows)


def by_hops(runs: Sequence[Run]) -> str:
    """Last validation of every arm by data source."""
    rows = []
    for arm in ARMS:
        own = [run.by_source[-1] for run in runs if run.arm == arm]
        if own:
            sources = {each: f"{statistics.fmean(run[each] for run in own):.0%}" for each in sorted(own[0])}
            rows.append({"arm": ARMS[arm].title, "seeds": len(own), **sources})
    return markdown.table(rows)


DIAGNOSTICS = {
    "clipped_share": ("tokens clipped", "{:.1%}"),
    "gradient_norm": ("gradient norm", "{:.3f}"),
    "equal_rewards_share": ("prompts without signal", "{:.0%}"),
    "nodes_per_tree": ("turns per tree", "{:.0f}"),
    "branched_mean_nll": ("nats/token of selected turns", "{:.2f}"),
}
"""Kept metric -> its column and how it is written."""


def diagnostics(runs: Sequence[Run]) -> str:
    """Training figures of the arms: clipped share, prompts with equal rewards, selected turns."""
    rows = []
    for arm in ARMS:
        own = [run.means for run in runs if run.arm == arm]
        if own:
            cells = {
                title: form.format(statistics.fmean(means[key] for means in own)) if key in own[0] else ""
                for key, (title, form) in DIAGNOSTICS.items()
            }
            rows.append({"arm": ARMS[arm].title, "seeds": len(own), **cells})
    return markdown.table(rows)


DRAWN = {"grpo": "C0", "gspo": "C1", "gspo_clip0.04": "C1--", "tree_grpo": "C2", "atpo": "C3", WIDER: "C3--"}
"""Arm -> how its curve looks."""


def draw(results: Path, out: Path) -> None:
    """Validation accuracy over sampled tokens and over steps, and training reward over tokens, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    runs = read_runs(results)
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    panels: tuple[tuple[str, str, Callable[[Run], Curve]], ...] = (
        ("sampled tokens, M", "validation accuracy", lambda run: (_millions(run.tokens), run.accuracy)),
        ("training steps", "validation accuracy", lambda run: (run.steps, run.accuracy)),
        ("sampled tokens, M", "training reward", lambda run: (_millions(run.rewards_tokens), run.rewards)),
    )
    for axis, (across, up, curve) in zip(axes, panels, strict=True):
        for arm, look in DRAWN.items():
            curves = [curve(run) for run in runs if run.arm == arm]
            for x, y in curves:
                axis.plot(x, y, look, lw=0.5, alpha=0.2)
            if curves:
                title = f"{ARMS[arm].title} ({len(curves)} seeds)"
                axis.plot(*_mean_curve(curves), look, lw=2, marker="." if len(x) < 20 else "", label=title)
        axis.set(xlabel=across, ylabel=up)
    axes[0].legend()
    axes[1].xaxis.get_major_locator().set_params(integer=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    """Mean over runs of both coordinates, point by point."""
    xs, ys = zip(*curves, strict=True)
    return tuple(map(statistics.fmean, zip(*xs, strict=True))), tuple(map(statistics.fmean, zip(*ys, strict=True)))


def _millions(tokens: Sequence[float]) -> Sequence[float]:
    return [each / 1e6 for each in tokens]


def _runs(results: Path) -> list[Run]:
    """Finished runs of the arms that there are."""
    return [run for run in read_runs(results) if run.arm in ARMS]


def _figures(budgets: Mapping[int, float]) -> tuple[Figure, Figure]:
    """Mean accuracy on the way to, and accuracy at, the tokens of a run's seed."""
    return lambda run: run.mean_accuracy_until(budgets[run.seed]), lambda run: run.accuracy_at(budgets[run.seed])


def _of_seeds(budgets: Mapping[int, float]) -> str:
    each = ", ".join(f"{budgets[seed] / 1e6:.3f}" for seed in sorted(budgets))
    return f"{each} M tokens (seed {', '.join(map(str, sorted(budgets)))})"
