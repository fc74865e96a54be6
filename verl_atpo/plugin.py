"""Entry point of the group ``verl.plugins``: importing this module registers verl_atpo with verl.

verl imports it at the end of ``import verl``, in the driver and in every Ray worker. It registers the advantage
estimator and the policy loss ``atpo``, those of credit schemes, Hydra's preset groups, the check of every config
before Ray starts, the containment of reward functions and, if ``VERL_PLATFORM=cpu`` is set, the CPU platform. verl
hides an exception raised here, so a failure is logged as an error first.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

from verl_atpo.log import own_logger
from verl_atpo.method.estimator import estimator_named
from verl_atpo.method.loss import compute_policy_loss_atpo
from verl_atpo.method.scheme import known_schemes
from verl_atpo.platforms import activate_if_requested
from verl_atpo.rollout.health.reward_worker import contain_reward_functions
from verl_atpo.seams.check import require
from verl_atpo.seams.versions import tested_versions
from verl_atpo.startup.driver import check_every_config
from verl_atpo.startup.presets import register_presets

logger = own_logger()


def register() -> None:
    """Register estimator, loss, presets, checks and, if requested, the CPU platform; may be called again.

    Raises:
        SeamMissing: a verl in which estimator and loss cannot work.
        RuntimeError: a name that is already registered to something else.
    """
    _check_verl()
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, register_adv_est, register_policy_loss

    for name in {scheme.estimator for scheme in known_schemes().values()}:
        register_adv_est(name)(estimator_named(name))
    for name, loss in losses().items():
        # verl's register_policy_loss overwrites silently.
        if POLICY_LOSS_REGISTRY.get(name, loss) is not loss:
            raise RuntimeError(f"policy loss {name!r} is registered already, to {POLICY_LOSS_REGISTRY[name]}.")
        register_policy_loss(name)(loss)
    register_presets()
    check_every_config()
    contain_reward_functions()
    activate_if_requested()


def losses() -> dict[str, Callable[..., Any]]:
    """Return the policy losses of this package and of credit schemes, by verl's name."""
    brought = {kind.loss: loss for kind in known_schemes().values() if (loss := kind.policy_loss()) is not None}
    return {"atpo": compute_policy_loss_atpo, **brought}


def _check_verl() -> None:
    """Check the seams of estimator and loss, except in a verl in which tests found them all."""
    if importlib.metadata.version("verl") not in tested_versions()["verl"]["seams"]:
        require()


try:
    register()
except Exception:
    logger.exception("verl_atpo could not be registered with verl; adv_estimator=atpo and +atpo=... will be unknown")
    raise
