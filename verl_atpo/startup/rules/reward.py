"""Rules about the reward: its file and function, its arguments, its return value for some rows."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from verl_atpo.failure import brief, is_outage
from verl_atpo.rollout.reward import reward_problem
from verl_atpo.settings import did_you_mean, refuse
from verl_atpo.startup.data_checks import SCORED_BY_TRUTH
from verl_atpo.startup.materials import REWARD_FILE, REWARD_NAME, quiet, train_rows, validation_rows
from verl_atpo.startup.rules.rule import Rule, Run, Stage
from verl_atpo.startup.trial import Outcome, attempt
from verl_atpo.startup.verl_config import EXTERNAL, REWARD_MANAGER, unknown

KWARGS = "reward.custom_reward_function.reward_kwargs"
PASSED = ("data_source", "solution_str", "ground_truth", "extra_info")
"""Keyword arguments with which verl's reward managers call a reward function."""
TRIAL_LIMIT_S = 5.0
"""Seconds that the reward of one row may take here; a slower one is not checked."""


def reward_function(run: Run) -> Callable[..., Any] | None:
    """Load the user's reward function; None if verl's own rewards are used.

    Raises:
        ConfigError: the file does not exist or cannot be loaded, or has no such function.
    """
    path, name = run.get(REWARD_FILE), run.get(REWARD_NAME)
    if not path:
        return None
    from verl.utils.import_utils import load_module

    if not str(path).startswith("pkg://") and not Path(str(path).removeprefix("file://")).is_file():
        raise refuse(REWARD_FILE, path, f"no such file, seen from {Path.cwd()}; correct the path")
    if not str(path).endswith((".py", "__init__")) and not str(path).startswith("pkg://"):
        raise refuse(REWARD_FILE, path, "verl imports it, so its name has to end in .py; rename it")
    try:
        with quiet():
            module = load_module(path)
    except SystemExit as error:
        raise refuse(REWARD_FILE, path, f"loading it ends the process ({error}); leave sys.exit out of it") from error
    except Exception as error:
        cause = error.__cause__ or error
        where = f" in line {cause.lineno}" if isinstance(cause, SyntaxError) else ""
        raise refuse(
            REWARD_FILE, path, f"it cannot be loaded: {brief(cause)}{where}. Correct the file", error
        ) from error
    found = getattr(module, str(name), None)
    if callable(found):
        return functools.partial(found) if isinstance(found, type) else found
    functions = [each for each, value in vars(module).items() if inspect.isfunction(value)]
    raise refuse(
        REWARD_NAME,
        name,
        f"{path} has no such function, only {', '.join(functions) or 'none'}. Name the reward function."
        f"{did_you_mean(name, functions)}",
    )


def reward_arguments(run: Run) -> dict[str, Any]:
    """Return ``reward_kwargs`` of the reward function."""
    value = run.get(KWARGS)
    return dict(OmegaConf.to_container(value, resolve=True)) if value else {}  # type: ignore[arg-type]


def _loads(run: Run) -> None:
    run.once(reward_function)


def _signature(run: Run) -> str | None:
    """Return the arguments with which verl calls the function."""
    function = run.once(reward_function)
    if function is None:
        return None
    passed = {**dict.fromkeys(PASSED), **run.once(reward_arguments)}
    try:
        inspect.signature(function).bind(**passed)
    except TypeError as error:
        return (
            f"{run.get(REWARD_NAME)}{inspect.signature(function)} cannot be called as verl does, with the keyword "
            f"arguments {', '.join(passed)}: {error}. Give the function these arguments"
        )
    except ValueError:  # a signature that Python does not know
        return None
    return None


@dataclasses.dataclass(frozen=True)
class _Trial:
    """One call of the reward function.

    Attributes:
        name: name of the row.
        source: its data source.
        outcome: result of the call.
    """

    name: str
    source: Any
    outcome: Outcome


def _trials(run: Run) -> list[_Trial]:
    """Score the first row of each data source, with its own gold answer as the response."""
    function, done = run.once(reward_function), {}
    for rows in (*run.once(train_rows), *run.once(validation_rows)):
        for name, row in rows.names():
            source = str(row.get("data_source"))
            if source not in done and isinstance(row.get("reward_model"), Mapping):
                score = _score(function, run.once(reward_arguments), row, run.samples_ours)
                done[source] = _Trial(name, row.get("data_source"), score)
    return list(done.values())


def _score(
    function: Callable[..., Any] | None, arguments: Mapping[str, Any], row: Mapping[str, Any], ours: bool
) -> Outcome:
    from verl.utils.reward_score import default_compute_score

    truth = row["reward_model"].get("ground_truth")
    text = truth if isinstance(truth, str) else str(truth)
    extra = {**(row.get("extra_info") or {}), "num_turns": 2, "rollout_reward_scores": {}}
    if ours:  # verl's own sampler does not pass it; verl_atpo.policy_text works with every sampler
        extra["policy_text"] = text
    passed = {"data_source": row.get("data_source"), "solution_str": text, "ground_truth": truth, "extra_info": extra}
    return attempt(lambda: (function or default_compute_score)(**{**passed, **arguments}), TRIAL_LIMIT_S)


def _returns_reward(run: Run) -> None:
    name = run.get(REWARD_NAME)
    for trial in run.once(_trials) if run.once(reward_function) else ():
        raised = trial.outcome.raised
        if raised is not None and not is_outage(raised):
            why = f"with the gold answer of {trial.name} as response it raised {brief(raised)}. Correct it, or the row"
            if "policy_text" in str(raised):
                why = f"it raised {brief(raised)}, which verl's own sampler does not pass. Use verl_atpo.policy_text"
            raise refuse(REWARD_NAME, name, why) from raised
        returns = raised is None and not trial.outcome.late
        if returns and (problem := reward_problem(trial.outcome.returned)):
            raise refuse(REWARD_NAME, name, f"for {trial.name} it {problem}. Correct the function")


def _outages(run: Run) -> str | None:
    """Warn of a judge or another service of the reward function that is down now, or slow."""
    for trial in run.once(_trials) if run.once(reward_function) else ():
        raised = trial.outcome.raised
        if raised is not None and is_outage(raised):
            return f"a service that it asks is out: {brief(raised)}. Start it before the first step"
        if trial.outcome.late:
            return f"it takes longer than {TRIAL_LIMIT_S:g} s for {trial.name}, so what it returns was not checked"
    return None


def _verls_own(run: Run) -> str | None:
    """Refuse data sources that verl's own rewards do not know."""
    if run.once(reward_function) is not None:
        return None
    for trial in run.once(_trials):
        if isinstance(trial.outcome.raised, NotImplementedError):
            return (
                f"verl has no reward for data_source={trial.source!r} of {trial.name}. Set it and {REWARD_NAME}, or "
                "+score=qa_paper for question answering"
            )
    return None


def _known_manager(run: Run) -> str | None:
    """Refuse a reward manager that is not registered; one of the user's file is not checked."""
    if run.get("reward.reward_manager.source") != "register" or run.get(EXTERNAL):
        return None
    from verl.experimental.reward_loop.reward_manager import registry

    known = registry.REWARD_MANAGER
    return None if run.get(REWARD_MANAGER) in known else unknown(run.get(REWARD_MANAGER), sorted(known))


def _scores_in_python(run: Run) -> bool:
    return run.get(REWARD_MANAGER) in SCORED_BY_TRUTH


RULES = (
    Rule(REWARD_MANAGER, _known_manager, stage=Stage.REHEARSAL),
    Rule(REWARD_FILE, _loads, stage=Stage.REHEARSAL),
    Rule(REWARD_FILE, _signature, _scores_in_python, stage=Stage.REHEARSAL),
)
"""Rules about the function itself."""
TRIALS = (
    Rule(REWARD_FILE, _verls_own, _scores_in_python, stage=Stage.REHEARSAL),
    Rule(REWARD_NAME, _returns_reward, _scores_in_python, stage=Stage.REHEARSAL),
    Rule(REWARD_NAME, _outages, _scores_in_python, stage=Stage.REHEARSAL, warns=True),
)
"""Rules about its return value for some rows; they follow those of the data."""
