"""Rules about other settings that trees depend on: trainer, rewards, contexts, dumps."""

from __future__ import annotations

import dataclasses
import importlib.util

from verl_atpo.config import ROOT_KEY, ConfigError, Contexts, ExpansionConfig
from verl_atpo.method.expansion import strategy_named
from verl_atpo.method.scheme import find_scheme
from verl_atpo.startup.rules.environment import unwritable
from verl_atpo.startup.rules.rule import Rule, Run, in_trees, never, with_own_sampler
from verl_atpo.startup.verl_config import CHAIN_MANAGER, ESTIMATOR, ROLLOUT, SAMPLER

CONTEXTS = f"{ROOT_KEY}.credit.contexts"
COLOCATED = "a colocated reward model scores only after sampling"
SCORED_EARLIER = "set reward.reward_model.enable_resource_pool=True or use a rule-based reward"


def _settings(run: Run) -> None:
    strategy_named(run.atpo.expansion.strategy)
    find_scheme(run.atpo, run.get(ESTIMATOR))


def _unwritten_contexts(run: Run) -> str | None:
    """Refuse pooled contexts if no sampler writes their values."""
    if run.atpo.credit.contexts is Contexts.SEPARATE:
        return None
    return (
        "verl's own sampler writes no values of turns; add +atpo=tree (with expansion.rounds=0 for chains), or set "
        f"{CONTEXTS}=separate"
    )


def _unread_contexts(run: Run) -> str | None:
    """Refuse ``states`` if no estimator reads it; ``merged``, which the presets set, only causes a warning."""
    if run.atpo.credit.contexts is not Contexts.STATES or run.get(ESTIMATOR) == "atpo":
        return None
    return f"{ESTIMATOR}={run.get(ESTIMATOR)} only sums a row's rewards; set {ESTIMATOR}=atpo, or {CONTEXTS}=separate"


def _one_leaf(run: Run) -> str | None:
    if run.atpo.expansion.leaves > 1:
        return None
    return "a tree of one trajectory has nothing to compare it with, so that no step changes the model; set at least 2"


def _dump_folder(run: Run) -> str | None:
    folder = run.atpo.dump_dir
    problem = None if folder is None else unwritable(folder)
    return problem and f"{problem}, or null for none"


def _dumps_nothing(run: Run) -> str | None:
    """Warn of a dump folder where nothing is recorded."""
    if not run.atpo.dump_dir:
        return None
    if run.records_chains:
        return f"{COLOCATED}, after the trajectories are dumped, so that nothing is; {SCORED_EARLIER}"
    return f"verl's own sampler records nothing to dump; set {SAMPLER}={CHAIN_MANAGER}, or use +atpo=chain"


def _expands_nothing(run: Run) -> None:
    """Warn of settings of the expansion where nothing is expanded."""
    unset, given = ExpansionConfig(), run.atpo.expansion
    changed = [
        each.name for each in dataclasses.fields(given) if getattr(given, each.name) != getattr(unset, each.name)
    ]
    if changed:
        raise ConfigError(
            f"{ROOT_KEY}.expansion with {', '.join(changed)} changes nothing: +atpo=chain expands no turn, and the "
            f"number of chains is {ROLLOUT}.n={run.get(f'{ROLLOUT}.n')}. Set {ROLLOUT}.n, or use +atpo=tree."
        )


def _colocated(run: Run) -> bool:
    model = "reward.reward_model"
    return bool(run.get(f"{model}.enable")) and not run.get(f"{model}.enable_resource_pool")


def _records_nothing(run: Run) -> bool:
    return not run.samples_ours or (run.records_chains and _colocated(run))


def _drawing(run: Run) -> str | None:
    missing = [name for name in ("jinja2", "resvg_py") if importlib.util.find_spec(name) is None]
    if not run.atpo.log_trees or not missing:
        return None
    return (
        f"{' and '.join(missing)} cannot be imported, which draw the trees; pip install 'verl-atpo[view] @ git+URL'"
        f" (this repository's), or set {ROOT_KEY}.log_trees=0"
    )


RULES = (
    Rule(ROOT_KEY, _settings),
    never(
        "trainer.use_v1",
        False,
        "this package's sampler runs in verl's V1 trainer only; set trainer.use_v1=True",
        with_own_sampler,
    ),
    never(
        "reward.reward_model.enable",
        True,
        f"{COLOCATED}, when the trees are gone; {SCORED_EARLIER}",
        lambda run: run.grows_trees and _colocated(run),
    ),
    Rule(CONTEXTS, _unwritten_contexts, lambda run: not run.grows_trees),
    Rule(CONTEXTS, _unread_contexts, in_trees),
    Rule(f"{ROOT_KEY}.expansion.initial_chains", _one_leaf, in_trees),
    Rule(f"{ROOT_KEY}.log_trees", _drawing),
    Rule(f"{ROOT_KEY}.dump_dir", _dumps_nothing, _records_nothing, warns=True),
    Rule(f"{ROOT_KEY}.expansion", _expands_nothing, lambda run: run.records_chains, warns=True),
    Rule(f"{ROOT_KEY}.dump_dir", _dump_folder),
)
