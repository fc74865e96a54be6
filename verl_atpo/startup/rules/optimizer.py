"""Rules about the optimizer and its schedule: values with which the policy would be destroyed, or would not move."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from verl_atpo.startup.resume import total_steps
from verl_atpo.startup.rules.rule import Rule, Run, choice_rule, number_rule
from verl_atpo.startup.verl_config import ACTOR, STRATEGY, unknown

OPTIM = f"{ACTOR}.optim"
RATE, BETAS, NAME = f"{OPTIM}.lr", f"{OPTIM}.betas", f"{OPTIM}.optimizer"
MODULE = f"{OPTIM}.optimizer_impl"
WARMUP, WARMUP_SHARE = f"{OPTIM}.lr_warmup_steps", f"{OPTIM}.lr_warmup_steps_ratio"
CLIP, UNREAD_CLIP = f"{OPTIM}.clip_grad", f"{ACTOR}.grad_clip"
HIGHEST, HIGH = 0.1, 0.01
"""Learning rates from which Adam destroys any network, and from which it does most: weights have sizes near 0.02."""
MOVES = "with Adam each weight moves by about the learning rate in every update"


def _fsdp(run: Run) -> bool:
    return run.get(STRATEGY) in ("fsdp", "fsdp2")


def _adam(run: Run) -> bool:
    return "adam" in str(run.get(NAME) or "adam").lower()


def _rate(run: Run) -> str | None:
    rate = run.number(RATE)
    if rate is None or rate < HIGHEST:
        return None
    return f"{MOVES}, which destroys the model in the first one; set a small positive number, e.g. 1e-6"


def _high_rate(run: Run) -> str | None:
    rate = run.number(RATE)
    if rate is None or not HIGH < rate < HIGHEST:
        return None
    return f"{MOVES}, which destroys most models; usual are 1e-6 to 1e-3, the smaller the larger the model"


def _betas(run: Run) -> str | None:
    betas: Any = run.get(BETAS)
    try:
        good = len(betas) == 2 and all(0 <= each < 1 for each in betas)
    except TypeError:
        good = False
    return None if good else "expected two numbers from 0 to below 1; set e.g. [0.9,0.999]"


def _known_optimizer(run: Run) -> str | None:
    module, name = str(run.get(MODULE)), str(run.get(NAME))
    root = module.partition(".")[0]
    if not root or importlib.util.find_spec(root) is None:
        return f"{MODULE}={module} is not installed; install {root}, or set {MODULE}=torch.optim"
    if module != "torch.optim":
        return None  # its import may need a GPU
    known = [each for each, kind in vars(importlib.import_module(module)).items() if isinstance(kind, type)]
    return None if name in known else unknown(name, [each for each in known if each != "Optimizer"])


def _warmup(run: Run) -> str | None:
    """Warn of a learning rate that does not reach its value within the run."""
    total, steps, share = total_steps(run.config), run.number(WARMUP), run.number(WARMUP_SHARE)
    if total is None:
        return None
    given = steps if steps is not None and steps >= 0 else (share or 0) * total
    if given < total:
        return None
    return f"the run has {total} steps, so that the learning rate never reaches {RATE}={run.get(RATE)}; set fewer"


def _unread_clip(run: Run) -> str | None:
    clip = run.number(UNREAD_CLIP)
    if clip is None or clip in (1.0, run.get(CLIP)):
        return None
    return f"verl does not read it, gradients are clipped at {CLIP}={run.get(CLIP)}; set {CLIP}={clip}"


RULES = (
    Rule(RATE, _rate, _adam),
    Rule(RATE, _high_rate, _adam, warns=True),
    number_rule(f"{OPTIM}.weight_decay", "weights would grow without bound; set e.g. 0.01, or 0 for none", ge=0),
    number_rule(CLIP, "gradients would be scaled to nothing; set e.g. 1.0", gt=0),
    Rule(UNREAD_CLIP, _unread_clip, _fsdp, warns=True),
    Rule(BETAS, _betas, lambda run: run.get(BETAS) is not None),
    Rule(NAME, _known_optimizer, _fsdp),
    choice_rule(f"{OPTIM}.lr_scheduler_type", lambda: ("constant", "cosine"), applies=_fsdp),
    number_rule(
        f"{OPTIM}.min_lr_ratio", "the learning rate ends at this share of its value; set 0 to 1", _fsdp, ge=0, le=1
    ),
    number_rule(
        WARMUP_SHARE, "it is the share of the run in which the learning rate rises; set 0 to below 1", ge=0, lt=1
    ),
    Rule(WARMUP, _warmup, warns=True),
)
