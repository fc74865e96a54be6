"""Names of a folder's runs, for menus."""

from __future__ import annotations

import datetime
import re

from verl_atpo.render.text import visible
from verl_atpo.view.index import RunFacts
from verl_atpo.view.run import Run

_START = re.compile(r"(\d{8})-(\d{6})\b")


def run_names(run: Run) -> dict[str, str]:
    """List the runs of a folder, the latest first: the index's name of each and what a page shows for it."""
    return {facts.name: label(facts) for facts in run.index.runs()}


def label(facts: RunFacts) -> str:
    """Describe a run by folder, start, steps and trees."""
    folder = "" if facts.folder == "." else f"{visible(facts.folder)[:60]}, "
    start = f"started {when(facts.start)}, " if facts.start else ""
    return f"{folder}{start}steps {facts.first_step} to {facts.last_step}, {facts.trees:,} trees"


def when(start: str) -> str:
    """Write the time in a start's name in words; a name without one as it is."""
    found = _START.match(start)
    if found is None:
        return visible(start)[:40]
    try:
        time = datetime.datetime.strptime(found[0], "%Y%m%d-%H%M%S")
    except ValueError:
        return visible(start)[:40]
    return f"{time:%Y-%m-%d %H:%M:%S}"
