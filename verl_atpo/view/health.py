"""Health of a run, from its metrics: a few figures over the last steps, and alarms."""

from __future__ import annotations

import dataclasses
import enum
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from verl_atpo.view.metrics import Series

LAST = 60
"""Steps of a sparkline."""
USELESS = 3
"""Useless steps in a row before the alarm."""
QUIET = 5.0
"""Times the length of a step without news after which a run does not train any more."""
QUIET_S = 120.0
_JUMP = 10.0


class State(str, enum.Enum):
    """State of a figure, as a class of CSS."""

    FINE = "fine"
    ODD = "odd"
    BAD = "bad"


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure of the strip.

    Attributes:
        name: as it is shown.
        metric: it is read from.
        value: the last one, as text.
        points: course over the last steps.
        state: fine, or odd, or bad.
        words: meaning of the figure, and reason for its state.
    """

    name: str
    metric: str
    value: str
    points: Sequence[tuple[int, float]]
    state: State
    words: str


FIGURES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "reward": (("critic/score/mean", "critic/rewards/mean"), "mean reward of the step's trajectories"),
    "KL": (("actor/ppo_kl", "actor/kl_loss"), "KL divergence of the policy from the one that sampled"),
    "entropy": (("actor/entropy", "actor/entropy_loss"), "entropy of the policy per token, nats"),
    "clipped": (("actor/pg_clipfrac",), "share of the tokens or turns whose ratio was clipped"),
    "gradient norm": (("actor/grad_norm",), "norm of the gradient before clipping"),
    "equal rewards": (("atpo/equal_rewards_share",), "share of the trees whose leaves all got one reward: no gradient"),
    "step, s": (("timing_s/step", "perf/time_per_step"), "seconds of a training step"),
}


def figures(series: Series, not_finite: Mapping[str, int]) -> list[Figure]:
    """Figures of a run, those that its metrics have.

    Args:
        series: metrics by name.
        not_finite: metric -> last step at which it was NaN or infinite.
    """
    found = []
    for name, (metrics, meaning) in FIGURES.items():
        metric = next((each for each in metrics if series.get(each) or each in not_finite), None)
        if metric is None:
            continue
        points = series.get(metric, [])[-LAST:]
        if not_finite.get(metric, -1) >= (points[-1][0] if points else 0):
            words = f"{meaning}. It is NaN or infinite since step {not_finite[metric]}"
            found.append(Figure(name, metric, "NaN", points, State.BAD, words))
            continue
        state, why = _state(name, points)
        value = f"{points[-1][1]:.3g}"
        found.append(Figure(name, metric, value, points, state, meaning + (f". {why}" if why else "")))
    return found


def _state(name: str, points: Sequence[tuple[int, float]]) -> tuple[State, str]:
    """Return the state of a figure by the rules of this strip, and the rule in words."""
    last, before = points[-1][1], [value for _, value in points[:-1]]
    usual = statistics.median(before) if before else last
    if name == "equal rewards" and last >= 0.9:
        return State.BAD, f"{last:.0%} of the last step's trees teach nothing"
    if name == "clipped" and last > 0.5:
        return State.ODD, "More than half is clipped: fewer updates per batch, or a smaller learning rate"
    if name == "KL" and abs(last) > 0.5:
        return State.ODD, "Above 0.5: the policy moves far within one step"
    if name == "entropy" and len(before) >= 5 and 0 <= last < 0.1 * before[0]:
        return State.ODD, f"Less than a tenth of what it was at step {points[0][0]}: the policy hardly explores"
    if name in ("gradient norm", "step, s") and len(before) >= 5 and last > _JUMP * usual > 0:
        return State.ODD, f"More than {_JUMP:g} times the usual {usual:.3g}"
    return State.FINE, ""


def alarms(series: Series, idle_s: float | None) -> list[str]:
    """Name what is wrong with a run, a sentence each; nothing where all is well.

    Args:
        series: metrics by name.
        idle_s: seconds since the run last wrote anything; ``None``: not known.
    """
    found = []
    steps = _streak(series.get("atpo/equal_rewards_share", ()), lambda share: share >= 1.0)
    if steps >= USELESS:
        found.append(f"The last {steps} steps taught nothing: the rewards inside every tree were equal.")
    steps = _streak(series.get("atpo/depth/max", ()), lambda depth: depth <= 1.0)
    if steps >= USELESS and "atpo/branched_turn" in series:  # chains may well have one turn
        found.append(f"In the last {steps} steps every trajectory had one turn: no tool was called.")
    calls = dict(series.get("atpo/tool_calls", ()))
    errors = [(step, float(calls.get(step, 0) > 0 and count >= calls[step]))
              for step, count in series.get("atpo/tool_errors", ())]  # fmt: skip
    steps = _streak(errors, lambda all_failed: all_failed > 0)
    if steps >= USELESS:
        found.append(f"In the last {steps} steps every tool call failed.")
    useless = series.get("atpo/useless_steps", ())
    if useless and useless[-1][1] >= USELESS and not found:
        found.append(f"The last {useless[-1][1]:.0f} steps taught nothing: the log says why.")
    if quiet := _quiet(series, idle_s):
        found.append(quiet)
    return found


def _streak(points: Sequence[tuple[int, float]], bad: Callable[[float], bool]) -> int:
    """Count the bad values at the end."""
    count = 0
    for _, value in reversed(points):
        if not bad(value):
            break
        count += 1
    return count


def _quiet(series: Series, idle_s: float | None) -> str:
    """Describe a run that has stopped writing; until then a running one and a dead one look the same."""
    if idle_s is None:
        return ""
    lengths = [value for _, value in series.get("timing_s/step", ())[-LAST:]]
    usual = statistics.median(lengths) if lengths else math.nan
    if idle_s <= max(QUIET_S, QUIET * usual if lengths else QUIET_S):
        return ""
    took = f", and a step took {duration(usual)}" if lengths else ""
    return f"No news for {duration(idle_s)}{took}: the run has ended, waits for something, or died."


def duration(seconds: float) -> str:
    """Write seconds as a person would: ``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
