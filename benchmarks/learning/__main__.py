"""The learning comparison: `VERL_PLATFORM=cpu python -m benchmarks.learning` (without the variable: on a GPU).

Runs every arm and seed that is not in `benchmarks/results/learning.jsonl` yet, the runs of a seed in one session, two
sessions at a time on a CPU. It may be stopped (Ctrl-C or TERM) and started again. `--status` says what is done.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from benchmarks import runs
from benchmarks.learning.arms import ALL, MAIN, PACKED
from benchmarks.learning.results import RESULTS
from benchmarks.learning.task import keep_warm_start, preparation
from benchmarks.process import ONE_THREAD, ROOT, call
from verl_atpo.platforms import cpu_platform_requested


def plan(arms: Sequence[str], only: Collection[int] | None = None) -> list[tuple[int, list[str]]]:
    """Sessions: a seed and its arms. The main arms come first, on all seeds, so that what is stopped is balanced.

    Arms of packed training have sessions of their own, for a session has one engine.

    Args:
        arms: which arms.
        only: which seeds; None: all that the arms have.
    """
    packed = [arm for arm in arms if PACKED in ALL[arm].overrides]
    others = [arm for arm in arms if arm not in MAIN and arm not in packed]
    groups = [[arm for arm in arms if arm in MAIN], others, packed]
    seeds = sorted({seed for arm in arms for seed in ALL[arm].seeds if only is None or seed in only})
    sessions = [(seed, [arm for arm in group if seed in ALL[arm].seeds]) for group in groups for seed in seeds]
    return [(seed, chosen) for seed, chosen in sessions if chosen]


async def run_session(seed: int, arms: list[str], options: argparse.Namespace) -> None:
    """World and warm start of a seed, unless they are there, then its runs."""
    data = options.work / f"seed{seed}"
    await call(preparation(data, seed), options.work / f"seed{seed}.log", ONE_THREAD)
    keep_warm_start(data, seed)
    command = [sys.executable, "-m", "benchmarks.learning.session", "--seed", str(seed), "--arms", *arms,
               "--work", str(options.work), "--results", str(options.results)]  # fmt: skip
    await call(command, options.work / f"session{seed}_{arms[0]}.log", {**ONE_THREAD, "HOPQA_DIR": str(data)})


async def run_all(sessions: list[tuple[int, list[str]]], options: argparse.Namespace) -> list[Exception]:
    """Run all sessions, some at a time, without the runs that are done already; return what failed."""
    places = asyncio.Semaphore(options.parallel)

    async def placed(seed: int, arms: list[str]) -> None:
        async with places:
            done = _done(options.results)
            arms = [arm for arm in arms if (arm, seed) not in done]
            if not arms:
                return
            print(f"seed {seed}: {', '.join(arms)}", flush=True)
            await run_session(seed, arms, options)

    watching = asyncio.ensure_future(watch(options))
    outcomes = await asyncio.gather(*[placed(*session) for session in sessions], return_exceptions=True)
    watching.cancel()
    return [outcome for outcome in outcomes if isinstance(outcome, Exception)]


async def watch(options: argparse.Namespace) -> None:
    """Say how far it is whenever a run has ended."""
    said = ""
    while True:
        if (line := status(options)) != said:
            print(line, flush=True)
            said = line
        await asyncio.sleep(5)


def status(options: argparse.Namespace) -> str:
    """Count the finished runs."""
    sessions = plan(options.arms, options.seeds)
    asked, done = [(arm, seed) for seed, arms in sessions for arm in arms], _done(options.results)
    return f"{sum(run in done for run in asked)} of {len(asked)} runs are done"


def _done(results: Path) -> set[tuple[str, int]]:
    return {(run["arm"], run["seed"]) for run in runs.read(results)}


async def stoppable(sessions: list[tuple[int, list[str]]], options: argparse.Namespace) -> list[Exception]:
    """:func:`run_all`; TERM stops it as Ctrl-C does, and with it what it has started."""
    task = asyncio.ensure_future(run_all(sessions, options))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__.splitlines()[0])
    parser.add_argument("--arms", nargs="+", choices=ALL, default=list(ALL), metavar="ARM", help=", ".join(ALL))
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="of the arms' seeds, these only")
    parser.add_argument(
        "--parallel",
        type=int,
        default=2 if cpu_platform_requested() else 1,
        help="sessions at a time: on a CPU 2, each keeps a core busy; on GPUs 1, for there two Ray clusters on one "
        "machine would meet on verl's weight-transfer socket",
    )
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "learning", help="folder of models and logs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="table of finished runs")
    parser.add_argument("--status", action="store_true", help="say what is done, run nothing")
    options = parser.parse_args()
    options.work = options.work.absolute()
    if options.status:
        print(status(options))
        return
    try:
        failures = asyncio.run(stoppable(plan(options.arms, options.seeds), options))
    except asyncio.CancelledError:
        raise SystemExit(f"Stopped; {status(options)}, and the same command continues from there") from None
    if failures:
        raise SystemExit("\n".join(map(str, failures)))


if __name__ == "__main__":
    main()
