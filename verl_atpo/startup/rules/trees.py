"""Rules about other settings that trees depend on: trainer, rewards, contexts, dumps."""

from __future__ import annotations

import importlib.util

from verl_atpo.config import ROOT_KEY, Contexts
from verl_atpo.method.expansion import strategy_named
from verl_atpo.method.scheme import find_scheme
from verl_atpo.startup.rules.environment import unwritable
from verl_atpo.startup.rules.rule import Rule, Run, never
from verl_atpo.startup.verl_config import ESTIMATOR

SUBJECT = "trees"
CONTEXTS = f"{ROOT_KEY}.credit.contexts"


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


def _dump_folder(run: Run) -> str | None:
    folder = run.atpo.dump_dir
    problem = None if folder is None else unwritable(folder)
    return problem and f"{problem}, or null for none"


def _undumped(run: Run) -> str | None:
    """Warn of a dump folder with verl's own sampler, which grows no trees."""
    if not run.atpo.dump_dir:
        return None
    return (
        "verl's own sampler grows no trees, so nothing is dumped. For chains in the viewer use +atpo=tree with "
        f"{ROOT_KEY}.expansion.rounds=0, whose tree rollout samples chains only"
    )


def _drawing(run: Run) -> str | None:
    missing = [name for name in ("jinja2", "resvg_py") if importlib.util.find_spec(name) is None]
    if not run.atpo.log_trees or not missing:
        return None
    return (
        f"{' and '.join(missing)} cannot be imported, which draw the trees; pip install 'verl-atpo[view] @ git+URL'"
        f" (this repository's), or set {ROOT_KEY}.log_trees=0"
    )


RULES = (
    Rule(SUBJECT, ROOT_KEY, _settings),
    never(
        SUBJECT,
        "trainer.use_v1",
        False,
        "the tree runs in verl's V1 trainer only; set trainer.use_v1=True",
        lambda run: run.grows_trees,
    ),
    never(
        SUBJECT,
        "reward.reward_model.enable",
        True,
        "a colocated reward model scores only after sampling, when the trees are gone; set "
        "reward.reward_model.enable_resource_pool=True or use a rule-based reward",
        lambda run: run.grows_trees and not run.get("reward.reward_model.enable_resource_pool"),
    ),
    Rule(SUBJECT, CONTEXTS, _unwritten_contexts, lambda run: not run.grows_trees),
    Rule(SUBJECT, CONTEXTS, _unread_contexts, lambda run: run.grows_trees),
    Rule(SUBJECT, f"{ROOT_KEY}.log_trees", _drawing),
    Rule(SUBJECT, f"{ROOT_KEY}.dump_dir", _undumped, lambda run: not run.grows_trees, warns=True),
    Rule(SUBJECT, f"{ROOT_KEY}.dump_dir", _dump_folder),
)
