"""Types of start-up rules: the setting of a rule, its condition, and the error message when it is broken."""

from __future__ import annotations

import enum
import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from verl_atpo.algorithm import read_algorithm
from verl_atpo.config import AtpoConfig, ConfigError
from verl_atpo.method.scheme import own_estimators, own_losses
from verl_atpo.settings import refusal
from verl_atpo.startup.verl_config import ESTIMATOR, LOSS, get, grows_trees, number, records_chains, unknown

_Made = TypeVar("_Made")


class Stage(enum.Enum):
    """Time at which a rule is checked."""

    CONFIG = "config"
    """In the driver, and again in the rollout's manager and workers; needs verl's config only."""
    REHEARSAL = "rehearsal"
    """In the driver only, after all rules of the config: may open files, load the tokenizer, make tools."""


class Run:
    """The run that rules check: verl's whole config, and the settings under ``algorithm.atpo``."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self._made: dict[Any, Any] = {}

    def once(self, make: Callable[[Run], _Made]) -> _Made:
        """Return the result of ``make`` for this run, computed once for all rules.

        Raises:
            ConfigError: ``make`` raised it, in this call or an earlier one.
        """
        if make not in self._made:
            try:
                self._made[make] = make(self)
            except ConfigError as error:
                self._made[make] = error
        made = self._made[make]
        if isinstance(made, ConfigError):
            raise made
        return cast(_Made, made)

    def get(self, key: str) -> Any:
        """Return the value at a dotted key of verl's config; None if there is none."""
        return get(self.config, key)

    def number(self, key: str, *, integer: bool = False) -> Any:
        """Return the number at a key; None if there is none.

        Raises:
            ConfigError: it is not a finite number.
        """
        return number(self.config, key, integer=integer)

    @functools.cached_property
    def atpo(self) -> AtpoConfig:
        """Settings under ``algorithm.atpo``; all defaults if there are none.

        Raises:
            ConfigError: unknown key or impossible value.
        """
        return read_algorithm(self.get("algorithm") or {})

    @property
    def grows_trees(self) -> bool:
        """True if the tree rollout is the sampler."""
        return grows_trees(self.config)

    @property
    def records_chains(self) -> bool:
        """True if the rollout of recorded chains is the sampler."""
        return records_chains(self.config)

    @property
    def samples_ours(self) -> bool:
        """True if the sampler is this package's."""
        return self.grows_trees or self.records_chains

    @property
    def trains_ours(self) -> bool:
        """True if the estimator or the policy loss is this package's."""
        return self.has_own_estimator or self.has_own_loss

    @property
    def has_own_estimator(self) -> bool:
        """True if the estimator is this package's."""
        return self.get(ESTIMATOR) in own_estimators()

    @property
    def has_own_loss(self) -> bool:
        """True if the policy loss is this package's."""
        return self.get(LOSS) in own_losses()


def always(run: Run) -> bool:
    """Apply to every run."""
    return True


in_trees: Callable[[Run], bool] = operator.attrgetter("grows_trees")
"""Apply to runs that grow trees."""
with_own_sampler: Callable[[Run], bool] = operator.attrgetter("samples_ours")
"""Apply to runs with a sampler of this package."""


@dataclass(frozen=True)
class Rule:
    """A condition that a config has to fulfil.

    Attributes:
        setting: dotted name of the setting that the message names with its value.
        problem: returns the reason why the setting cannot work and the remedy, without a full stop; None if it can
            work. It may raise ``ConfigError`` instead, whose text is then the complete message.
        applies: returns whether the rule concerns a run.
        stage: time at which it is checked.
        warns: whether a broken rule is only logged.
    """

    setting: str
    problem: Callable[[Run], str | None]
    applies: Callable[[Run], bool] = always
    stage: Stage = Stage.CONFIG
    warns: bool = False

    def message(self, run: Run) -> str | None:
        """Return the error message: setting, value and remedy; None if the rule holds or does not apply."""
        try:
            problem = self.problem(run) if self.applies(run) else None
        except (ConfigError, OmegaConfBaseException) as error:
            return str(_cause(error))
        return None if problem is None else refusal(self.setting, run.get(self.setting), problem)


def _cause(error: BaseException) -> BaseException:
    """Return the refusal that OmegaConf met while it resolved a setting, or else the first cause of its error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error.__cause__ or error


def value_rule(setting: str, is_good: Callable[[Any], bool], why: str, applies: Callable[[Run], bool] = always) -> Rule:
    """Make a rule about one value; a setting that is missing or null is not checked.

    Args:
        setting: dotted name.
        is_good: returns whether a value can work.
        why: reason why other values cannot work, and the remedy.
        applies: whether the rule concerns a run.
    """

    def problem(run: Run) -> str | None:
        value = run.get(setting)
        return None if value is None or is_good(value) else why

    return Rule(setting, problem, applies)


def never(setting: str, value: object, why: str, applies: Callable[[Run], bool] = always) -> Rule:
    """Make a rule that refuses one value of a setting."""
    return value_rule(setting, lambda found: found != value, why, applies)


def number_rule(
    setting: str,
    why: str,
    applies: Callable[[Run], bool] = always,
    *,
    integer: bool = False,
    ge: float = -math.inf,
    gt: float = -math.inf,
    le: float = math.inf,
    lt: float = math.inf,
    but: float | None = None,
) -> Rule:
    """Make a rule about a number; a value that is no finite number is refused as well.

    Args:
        setting: dotted name.
        why: reason why other numbers cannot work, and the remedy.
        applies: whether the rule concerns a run.
        integer: whether it has to be an integer.
        ge, gt, le, lt: bounds: at least, above, at most, below.
        but: number outside the bounds that can work too.
    """

    def problem(run: Run) -> str | None:
        value = run.number(setting, integer=integer)
        return None if value is None or value == but or (ge <= value <= le and gt < value < lt) else why

    return Rule(setting, problem, applies)


def choice_rule(
    setting: str,
    known: Callable[[], Iterable[str]],
    more: str = "",
    applies: Callable[[Run], bool] = always,
) -> Rule:
    """Make a rule that refuses unknown values; null is not checked.

    Args:
        setting: dotted name.
        known: returns the valid values.
        more: text after the list in the message.
        applies: whether the rule concerns a run.
    """

    def problem(run: Run) -> str | None:
        value = run.get(setting)
        names = list(known())
        return None if value is None or value in names else unknown(value, names, more)

    return Rule(setting, problem, applies)


def broken(rules: Iterable[Rule], run: Run) -> Iterator[tuple[Rule, str]]:
    """Yield the rules that a run breaks, in order, with their messages; each message once.

    A rule that fails over what an earlier one refused is left out.
    """
    reported = set[str]()
    for rule in rules:
        try:
            message = rule.message(run)
        except Exception:
            if reported:
                continue
            raise
        if message is not None and message not in reported:
            reported.add(message)
            yield rule, message
