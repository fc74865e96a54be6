"""The goals of packed training beside what `benchmarks.packed` measured."""

from __future__ import annotations

from benchmarks import markdown
from benchmarks.headlines import read_rows, spread


def table() -> str:
    """Goals of packed training, and the range of the measurements."""
    rows = read_rows("packed.json", "results")
    updates = [row for row in rows if row["mode"] == "update"]
    measured = {
        "update on the paper's trees, times faster in processor time (goal: 1.6)": spread(
            [row["faster_cpu"] for row in updates if row["batch"].startswith("paper's trees")], "{:.1f}"
        ),
        "update on chains (goal: 1.25)": spread(
            [row["faster_cpu"] for row in updates if row["batch"].startswith("22 chains")], "{:.1f}"
        ),
        "times faster, over times fewer tokens, all rows (goal: 0.9)": spread(
            [row["faster_cpu"] / row["token_ratio"] for row in rows], "{:.1f}"
        ),
        "peak memory over verl's (goal: 1)": spread([row["peak_over_verl"] for row in rows], "{:.2f}"),
        "tries, share of an update (goal: under 2 %)": spread([row["trie_share"] for row in updates], "{:.2%}"),
        "largest error (goal: 1e-5, with gated delta nets 5e-5)": spread([row["max_error"] for row in rows], "{:.0e}"),
    }
    return markdown.table([{"goal": goal, "measured": value} for goal, value in measured.items()])
