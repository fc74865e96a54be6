"""Start-up checks: what verl's whole config must look like for this package to work.

They run in the driver before Ray starts (:mod:`verl_atpo.startup.driver`), and again in the rollout's manager and
workers before the first prompt. Every check raises :class:`ConfigError` with the setting, its value and the remedy; the
ones of a subject stand in a module of their own.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

from omegaconf import DictConfig

from verl_atpo.algorithm import read_algorithm
from verl_atpo.config import ROOT_KEY, AtpoConfig, Contexts
from verl_atpo.method.expansion import strategy_named
from verl_atpo.packed.checks import check_packed, is_packed
from verl_atpo.startup.batch_sizes import check_batch_sizes
from verl_atpo.startup.information_gain import check_information_gain
from verl_atpo.startup.learning import check_learning
from verl_atpo.startup.loops import check_agent_names, check_loops
from verl_atpo.startup.objective import ESTIMATOR, LOSS, OURS, check_objective
from verl_atpo.startup.sampling import check_sampling
from verl_atpo.startup.tool_files import check_tool_files
from verl_atpo.startup.trainer_modes import check_trainer_mode
from verl_atpo.startup.verl_config import MANAGER, get, grows_trees, refuse

__all__ = ["MANAGER", "check_agent_names", "check_config", "check_tool_files", "is_used", "read_config"]


def is_used(config: DictConfig) -> bool:
    """Whether verl's config has anything of this package in it."""
    ours = get(config, ESTIMATOR) in OURS or get(config, LOSS) in OURS or grows_trees(config)
    return ours or get(config, ROOT_KEY) is not None or is_packed(config)


def read_config(config: DictConfig) -> AtpoConfig:
    """The settings under ``algorithm.atpo`` of verl's whole config; all defaults where there are none.

    Raises:
        ConfigError: unknown key or impossible value.
    """
    return read_algorithm(get(config, "algorithm") or {})


def check_config(config: DictConfig) -> AtpoConfig:
    """Check verl's whole config for use with this package.

    Returns:
        The settings under ``algorithm.atpo``.

    Raises:
        ConfigError: names the setting, its value and the remedy.
    """
    atpo = read_config(config)
    strategy_named(atpo.expansion.strategy)
    check_objective(config)
    _check_contexts(config, atpo.credit.contexts)
    check_information_gain(config, atpo)
    check_learning(config)
    if grows_trees(config):
        _check_trees(config)
        check_sampling(config, atpo)
    check_trainer_mode(config)
    if is_packed(config):
        check_packed(config)
    check_tool_files(config)
    if grows_trees(config):
        check_loops(config)
    check_batch_sizes(config)
    _check_logged_trees(atpo)
    if atpo.dump_dir is not None:
        _check_folder(f"{ROOT_KEY}.dump_dir", atpo.dump_dir)
    return atpo


def _check_trees(config: DictConfig) -> None:
    if get(config, "trainer.use_v1") is False:
        refuse("trainer.use_v1", False, "the tree runs in verl's V1 trainer only; set trainer.use_v1=True")
    if get(config, "reward.reward_model.enable") and not get(config, "reward.reward_model.enable_resource_pool"):
        refuse(
            "reward.reward_model.enable",
            True,
            "a colocated reward model scores only after sampling, when the trees are gone; set "
            "reward.reward_model.enable_resource_pool=True or use a rule-based reward",
        )


def _check_contexts(config: DictConfig, contexts: Contexts) -> None:
    """Refuse pooled contexts where nobody would write their values, and ``states`` where nobody would read them.

    Other estimators sum up the rows of ``merged``, which ``+atpo=tree`` sets, to outcomes; the driver warns of it.
    """
    key, estimator = f"{ROOT_KEY}.credit.contexts", get(config, ESTIMATOR)
    if contexts is Contexts.SEPARATE:
        return
    if not grows_trees(config):
        refuse(
            key,
            contexts.value,
            "verl's own sampler writes no values of turns; add +atpo=tree (with expansion.rounds=0 for chains), or set "
            f"{key}=separate",
        )
    if estimator != "atpo" and contexts is Contexts.STATES:
        refuse(
            key,
            contexts.value,
            f"{ESTIMATOR}={estimator} only sums a row's rewards; set {ESTIMATOR}=atpo, or {key}=separate",
        )


def _check_folder(key: str, folder: str) -> None:
    """Refuse a folder that cannot be made or written to."""
    path = Path(folder).absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    try:
        if not folder.strip():
            raise NotADirectoryError("a name that is empty")
        with tempfile.TemporaryDirectory(dir=there):  # permissions alone do not tell: read-only disks, /proc
            return
    except OSError as error:
        refuse(key, folder, f"{there} is no folder that can be written to ({error}); choose another, or null for none")


def _check_logged_trees(atpo: AtpoConfig) -> None:
    missing = [name for name in ("jinja2", "resvg_py") if importlib.util.find_spec(name) is None]
    if atpo.log_trees and missing:
        refuse(
            f"{ROOT_KEY}.log_trees",
            atpo.log_trees,
            f"{' and '.join(missing)} cannot be imported, which draw the trees; pip install 'verl-atpo[view]', or set "
            f"{ROOT_KEY}.log_trees=0",
        )
