"""Table of all rules, those of this package and those that other code registers."""

from __future__ import annotations

from collections.abc import Iterator

from verl_atpo.extensions import import_installed
from verl_atpo.gateway.checks import check_gateway
from verl_atpo.gateway.settings import KEY as GATEWAY
from verl_atpo.method.scheme import known_schemes
from verl_atpo.packed.checks import check_packed, is_packed
from verl_atpo.startup.rules import (
    batch_sizes,
    cpu,
    data,
    environment,
    learning,
    loops,
    model,
    objective,
    optimizer,
    ranges,
    reward,
    sampling,
    tool_files,
    tool_trial,
    trainer_modes,
    trees,
)
from verl_atpo.startup.rules.rule import Rule, Run, Stage, broken
from verl_atpo.startup.verl_config import EXTERNAL

_BUILT_IN: tuple[Rule, ...] = (
    *trees.RULES,
    *objective.RULES,
    *(rule for scheme in known_schemes().values() for rule in scheme.rules()),
    *learning.RULES,
    *optimizer.RULES,
    *ranges.RULES,
    *sampling.RULES,
    *trainer_modes.RULES,
    Rule(EXTERNAL, lambda run: check_packed(run.config), lambda run: is_packed(run.config)),
    *tool_files.RULES,
    *loops.RULES,
    Rule(GATEWAY, lambda run: check_gateway(run.config)),
    *batch_sizes.RULES,
    *ranges.LATER,
    *cpu.RULES,
    *environment.RULES,
    *model.RULES,
    *reward.RULES,
    loops.CLASSES,
    *tool_trial.RULES,
    *data.RULES,
    *reward.TRIALS,
    *tool_trial.TRIALS,
    *learning.LATER,
)
_registered: list[Rule] = []


def register_rules(*rules: Rule) -> None:
    """Add rules to the table, after this package's own. A rule that is in the table already is not added again."""
    _registered.extend(rule for rule in rules if rule not in _registered)


def rules(stage: Stage) -> tuple[Rule, ...]:
    """Return all rules of a stage, in the order in which they are checked."""
    import_installed()
    return tuple(rule for rule in (*_BUILT_IN, *_registered) if rule.stage is stage)


def broken_rules(run: Run, stage: Stage) -> Iterator[tuple[Rule, str]]:
    """Yield the rules of a stage that a run breaks, with their messages; warnings are included."""
    yield from broken(rules(stage), run)
