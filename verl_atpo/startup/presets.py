"""Presets for verl's own entry point: ``python -m verl.trainer.main_ppo +atpo=tree ...``.

Each preset sets only what it needs, and all its settings can be overridden on the command line.

| preset | what it is |
|---|---|
| ``tree`` | recommended: 6 chains, 6 expansions without rounds, where noise falls most; a shrunk baseline per turn |
| ``paper`` | the authors' script: M=10, K=6, L=2, so 22 leaves; the penalty counts siblings |
| ``unbiased`` | 8 chains, 2 rounds of 4; weights and selection give the gradient of chains (``docs/unbiased.md``) |
| ``chain`` | no tree: the ATPO loss with verl's own GRPO estimator and chains, for any loop, single-turn ones too |

Credit schemes bring presets of their own (``Scheme.presets``).
``+platform=cpu``, with ``VERL_PLATFORM=cpu`` in the environment, runs any recipe on a machine without GPU;
``+agent=gateway`` runs any agent that uses chat completions (``verl_atpo.gateway``);
``+agent=search`` and ``+score=qa_paper`` are the paper's setting (``agent_presets``);
``+train=packed`` trains on every distinct token once (``verl_atpo.packed``), with any of them or none;
``+sampler=quick`` makes verl's trainer poll for finished rollouts ten times a second, which matters for small models.
"""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from verl_atpo.config import (
    AdvantageMode,
    AtpoConfig,
    Backup,
    Contexts,
    CreditConfig,
    ExpansionConfig,
    Normalize,
    Penalty,
    Schedule,
    Weights,
)
from verl_atpo.gateway.presets import GATEWAY_PRESETS
from verl_atpo.method.scheme import known_schemes
from verl_atpo.packed import ACTIVATE
from verl_atpo.platforms.cpu_preset import CPU_PRESET, QUICK_SAMPLER_PRESET, register_resolver
from verl_atpo.search_qa import presets as agent_presets
from verl_atpo.startup.verl_config import CHAIN_MANAGER, TREE_MANAGER

LEAVES = "${atpo.leaves:${algorithm.atpo.expansion}}"
"""``rollout.n`` of the tree presets: follows M, K and L when they are overridden."""

LOSS = {
    "policy_loss": {"loss_mode": "atpo"},
    "loss_agg_mode": "seq-mean-token-mean",
    "clip_ratio_low": 0.003,
    "clip_ratio_high": 0.004,
}


TREE = AtpoConfig(
    expansion=ExpansionConfig(strategy="noise"),
    credit=CreditConfig(contexts=Contexts.MERGED, scheme="shrunk"),
)
"""Recommended settings for tasks whose turns do not repeat (``docs/credit.md``)."""
UNBIASED = AtpoConfig(
    expansion=ExpansionConfig(
        initial_chains=8, branches_per_round=4, rounds=2, strategy="other_chains", schedule=Schedule.ROUNDS
    ),
    credit=CreditConfig(
        backup=Backup.CHILD_MEAN,
        advantage=AdvantageMode.DIFF_GLOBAL,
        normalize=Normalize.CENTER,
        weights=Weights.SPLIT,
    ),
)
"""Settings of a tree with the gradient of chains (``docs/unbiased.md``)."""


def _tree(atpo: AtpoConfig, estimator: str = "atpo", **loss: Any) -> dict[str, Any]:
    rollout = {"n": LEAVES, "calculate_log_probs": True, "agent": {"agent_loop_manager_class": TREE_MANAGER}}
    return {
        "algorithm": {"adv_estimator": estimator, "atpo": atpo.to_mapping()},
        "actor_rollout_ref": {"actor": {**LOSS, **loss}, "rollout": rollout},
    }


ATPO_PRESETS: dict[str, dict[str, Any]] = {
    "tree": _tree(TREE),
    "paper": _tree(
        AtpoConfig(
            expansion=ExpansionConfig(
                initial_chains=10,
                branches_per_round=6,
                rounds=2,
                penalty=0.05,
                penalty_counts=Penalty.SIBLINGS,
                schedule=Schedule.ROUNDS,
            ),
            credit=CreditConfig(),
        )
    ),
    "unbiased": _tree(UNBIASED, loss_agg_mode="seq-mean-token-sum-norm"),
    **{
        name: _tree(atpo, kind.estimator, **actor)
        for kind in known_schemes().values()
        for name, (atpo, actor) in kind.presets().items()
    },
    "chain": {
        "algorithm": {"adv_estimator": "grpo", "atpo": AtpoConfig().to_mapping()},
        "actor_rollout_ref": {"actor": LOSS, "rollout": {"agent": {"agent_loop_manager_class": CHAIN_MANAGER}}},
    },
}

TRAIN_PRESETS: dict[str, dict[str, Any]] = {
    "packed": {"actor_rollout_ref": {"model": {"external_lib": ACTIVATE}, "actor": {"strategy": "fsdp2"}}}
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "atpo": ATPO_PRESETS,
    "agent": {**agent_presets.AGENT_PRESETS, **GATEWAY_PRESETS},
    "score": agent_presets.SCORE_PRESETS,
    "platform": {"cpu": CPU_PRESET},
    "train": TRAIN_PRESETS,
    "sampler": {"quick": QUICK_SAMPLER_PRESET},
}
"""Hydra config group -> name -> settings."""


def register_presets() -> None:
    """Store the presets in Hydra's ConfigStore; may be called again."""
    OmegaConf.register_new_resolver("atpo.leaves", _leaves, replace=True)
    agent_presets.register_resolver()
    register_resolver()
    store = ConfigStore.instance()
    for group, presets in PRESETS.items():
        for name, node in presets.items():
            store.store(group=group, name=name, node=node, package="_global_", provider="verl_atpo")


def _leaves(expansion: Any) -> int:
    """Compute M + L * K from the settings under ``algorithm.atpo.expansion``."""
    settings = OmegaConf.to_container(expansion, resolve=True)
    return AtpoConfig.from_mapping({"expansion": settings}).expansion.leaves
