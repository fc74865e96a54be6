"""Credit schemes: how a finished tree's turns are credited, one object per scheme, in a registry.

A scheme is a class under a name. ``algorithm.atpo.credit.scheme`` takes the name, or the import path of a class
(``my_package.my_module.MyScheme``); null means the scheme that the other settings of ``credit`` describe.
:meth:`Scheme.evaluate` is all that a scheme must have::

    @register_scheme
    class LeaveOneOut(Scheme):
        '''A turn's advantage is its value minus the mean outcome.'''

        name = "against_mean"

        def evaluate(self, tree, zero):
            values = node_values(tree, self.config.backup)
            return values, [None if value is None else value - zero for value in values]

The rollout asks a scheme once for the credit of each finished tree (:meth:`Scheme.credit`); rows, dump, metrics and
viewer share the answer. Rows carry it to the estimator, which only scales it (:mod:`verl_atpo.method.channel`).
Pure Python.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from verl_atpo.config import ROOT_KEY, AtpoConfig
from verl_atpo.extensions import import_installed, register
from verl_atpo.method.channel import TurnCredit
from verl_atpo.method.credit import Number, Outcomes, leaf_returns, normalization
from verl_atpo.method.squared_score import muting
from verl_atpo.settings import did_you_mean, refuse
from verl_atpo.tree.tree import TurnTree

ATPO = "atpo"
"""verl's name of the estimator that reads the rows of all schemes."""
SCHEME_KEY = f"{ROOT_KEY}.credit.scheme"

Known = list[float | None]
"""A number per node, by index; ``None`` where it is not known, which is not 0."""


@dataclasses.dataclass(frozen=True)
class Credit:
    """The credit of one finished tree.

    Attributes:
        values: value per node, on the scale of the reward.
        advantages: advantage per node, as the estimator gives it to the turn's tokens; the mean if rows differ.
        rows: credit of the turns in each trajectory's row, first to last.
        outcomes: sum of each trajectory's row.
        zero: the outcome that the tree's scale takes as 0.
        factor: factor of that scale.
        notes: further numbers per node for the dump: name -> by index.
        stats: input of :meth:`Scheme.metrics`; ``None`` if the scheme has no metrics.
    """

    values: Known
    advantages: Known
    rows: list[list[TurnCredit]]
    outcomes: list[float]
    zero: float = 0.0
    factor: float = 1.0
    notes: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    stats: Any = None


class Questions(Protocol):
    """Questions of a scheme to the engine while one tree grows; only the tree's end waits for the answers."""

    def ask(self, context: Sequence[int]) -> None:
        """Start to ask about a context that a turn is about to be sampled in."""

    async def settle(self, tree: TurnTree) -> Any:
        """Wait for all answers, and return the ``answers`` of :meth:`Scheme.credit`."""

    async def cancel(self) -> None:
        """Stop asking, and wait until every request has ended."""


class Scheme(abc.ABC):
    """A credit scheme.

    Args:
        atpo: settings of the run; ``self.config`` are those under ``credit``, ``self.settings`` the scheme's own.

    Attributes:
        name: value of ``algorithm.atpo.credit.scheme``.
        settings_class: class of settings of its own, made with :func:`verl_atpo.settings.settings`.
        settings_name: their group under ``algorithm.atpo``.
        estimator: verl's name of the estimator that always uses this scheme; ``atpo`` uses the one that settings name.
        carries_after: rows carry a second number per turn, which the estimator passes on to the policy loss.
        loss: verl's name of the policy loss that the scheme brings, see :meth:`policy_loss`.
    """

    name: ClassVar[str]
    settings_class: ClassVar[type | None] = None
    settings_name: ClassVar[str] = ""
    estimator: ClassVar[str] = ATPO
    carries_after: ClassVar[bool] = False
    loss: ClassVar[str] = ATPO

    def __init__(self, atpo: AtpoConfig) -> None:
        self.atpo, self.config = atpo, atpo.credit
        kind = self.settings_class
        self.settings: Any = None if kind is None else atpo.of_schemes.get(self.settings_name, kind())

    @abc.abstractmethod
    def evaluate(self, tree: TurnTree, zero: float) -> tuple[Known, Known]:
        """Compute values and unscaled advantages of all nodes, by index.

        Args:
            tree: finished, or what there is of a tree that failed; at least one leaf's reward is known.
            zero: the outcome that the scale of the tree takes as 0: the mean, or 0 for ``normalize=none``.
        """

    def credit(self, tree: TurnTree, paths: Sequence[Sequence[int]] | None = None, answers: Any = None) -> Credit:
        """Compute the credit of a tree.

        Args:
            tree: finished, or what there is of a tree that failed.
            paths: nodes of every trajectory; by default of all whose reward is known.
            answers: answers of the engine to the scheme's questions.

        Raises:
            ConfigError: the scheme's numbers are not one per node, or a turn of a trajectory has none.
        """
        returns = leaf_returns(tree, self.config.tool_rewards)
        if paths is None:
            paths = [tree.path(leaf) for leaf in tree.leaves if returns[leaf] is not None]
        known = [each for each in returns if each is not None]
        if not known:
            unknown: Known = [None] * len(tree.nodes)
            return Credit(unknown, unknown, [], [])
        zero, factor = normalization(Outcomes.of(known), self.config.normalize)
        values, raw = self.evaluate(tree, zero)
        self._check(tree, paths, values, raw)
        if self.config.mute_above is not None:
            factors = muting(tree, self.config.mute_above)
            raw = [None if each is None else each * share for each, share in zip(raw, factors, strict=True)]
        return Credit(
            values,
            [None if each is None else each * factor for each in raw],
            [[TurnCredit(each) for node in path if (each := raw[node]) is not None] for path in paths],
            [each for path in paths if (each := returns[path[-1]]) is not None],
            zero,
            factor,
        )

    def _check(self, tree: TurnTree, paths: Sequence[Sequence[int]], values: Known, advantages: Known) -> None:
        """Refuse numbers of :meth:`evaluate` that no row can carry."""
        found = (len(values), len(advantages))
        if found != (len(tree.nodes),) * 2:
            problem = (
                f"it gave {found[0]} values and {found[1]} advantages for {len(tree.nodes)} nodes; return one each"
            )
        else:
            odd = [node for path in paths for node in path if not _is_finite(advantages[node])]
            if not odd:
                return
            problem = (
                f"it gave the advantage {advantages[odd[0]]} to node {odd[0]}, a turn of a trajectory with an outcome; "
                "return a finite number"
            )
        raise refuse(SCHEME_KEY, self.name, problem)

    def chain(self, outcome: Number, mean: Number, zero: Number, first: Number) -> Number:
        """Compute the unscaled advantage of the turns of plain chains, which verl's own sampler wrote.

        Args:
            outcome: outcome of the chains.
            mean: mean outcome of their group.
            zero: the outcome that the scale of the group takes as 0.
            first: 1 for first turns, 0 for others.
        """
        return outcome - zero

    def scale(self, advantage: Number, outcome: Number, factor: Number) -> Number:
        """Compute the advantage on the scale of the group.

        Args:
            advantage: before scaling.
            outcome: outcome of the trajectory, on the scale of the group.
            factor: factor of that scale.
        """
        return advantage * factor

    def questions(self, client: Any, tokenizer: Any, prompt: Mapping[str, Any], longest: float) -> Questions | None:
        """Make the questions to the engine for the tree of a prompt; ``None`` for none.

        Args:
            client: verl's ``LLMServerClient``, or any object with its ``generate``.
            tokenizer: the model's.
            prompt: verl's fields of the prompt.
            longest: tokens of the longest prompt that the engine takes.
        """
        return None

    def check_prompts(self, prompts: Any) -> None:  # noqa: B027  optional
        """Refuse a batch of verl's prompts that the scheme cannot credit.

        Raises:
            ConfigError: names the row, what is wrong and the remedy.
        """

    def metrics(self, stats: Sequence[Any]) -> dict[str, float]:
        """Make a step's metrics from :attr:`Credit.stats` of each of its trees."""
        return {}

    def describe(self) -> dict[str, str]:
        """Make the lines of the banner at the start of a run: name -> text."""
        return {}

    @classmethod
    def rules(cls) -> Sequence[Any]:
        """List the start-up rules (``verl_atpo.startup.rules``) of the scheme; each says when it applies."""
        return ()

    @classmethod
    def seams(cls) -> Sequence[Any]:
        """List the places in verl (``verl_atpo.seams.place``) that the scheme needs."""
        return ()

    @classmethod
    def presets(cls) -> Mapping[str, tuple[AtpoConfig, Mapping[str, Any]]]:
        """Presets ``+atpo=NAME`` that use the scheme: settings of ours, and those of verl's actor."""
        return {}

    @classmethod
    def policy_loss(cls) -> Callable[..., Any] | None:
        """Return the policy loss that :attr:`loss` names, with the signature of verl's policy losses."""
        return None


def _is_finite(number: float | None) -> bool:
    return number is not None and math.isfinite(number)


SCHEMES: dict[str, type[Scheme]] = {}
"""Credit schemes by the name that ``algorithm.atpo.credit.scheme`` takes; complete after :func:`known_schemes`."""

_Scheme = TypeVar("_Scheme", bound=type[Scheme])


def register_scheme(scheme: _Scheme) -> _Scheme:
    """Register a credit scheme under its name.

    Raises:
        ValueError: the name is taken by another class.
    """
    kind: type[Scheme] = scheme
    register(SCHEMES, "scheme", kind.name, kind)
    return scheme


def known_schemes() -> Mapping[str, type[Scheme]]:
    """Return all registered schemes: the package's own, and those of extensions."""
    importlib.import_module("verl_atpo.schemes")
    import_installed()
    return SCHEMES


def settings_groups(scheme: object = None) -> Mapping[str, type]:
    """Groups of settings under ``algorithm.atpo`` that schemes bring: name -> class.

    Args:
        scheme: import path of one that is not registered.
    """
    kinds = list(known_schemes().values())
    if isinstance(scheme, str) and scheme not in known_schemes():
        kinds.append(scheme_named(scheme))
    return {kind.settings_name: kind.settings_class for kind in kinds if kind.settings_class is not None}


def scheme_named(name: str) -> type[Scheme]:
    """Return the scheme registered under ``name``, or the class at the import path ``name``.

    Raises:
        ConfigError: there is none.
    """
    known = known_schemes()
    if name in known:
        return known[name]
    module, _, attribute = name.rpartition(".")
    if not module:
        names = ", ".join(sorted(known))
        hint = did_you_mean(name, known)
        raise refuse(SCHEME_KEY, name, f"expected null, one of {names}, or the import path of a class.{hint}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        why = f"{error}. Correct the path, or add its folder to PYTHONPATH"
        raise refuse(SCHEME_KEY, name, why) from error
    if not (isinstance(found, type) and issubclass(found, Scheme)):
        raise refuse(SCHEME_KEY, name, "expected a subclass of verl_atpo.method.scheme.Scheme")
    return found


def find_scheme(atpo: AtpoConfig, estimator: object = None) -> Scheme:
    """Make the credit scheme of a run.

    Args:
        atpo: settings of the run.
        estimator: verl's ``algorithm.adv_estimator``; one that belongs to a single scheme decides.

    Raises:
        ConfigError: the settings name a scheme that does not exist, or two different ones.
    """
    kinds = known_schemes().values()
    by_estimator = next((kind for kind in kinds if kind.estimator == estimator != ATPO), None)
    kind = by_estimator or scheme_named(atpo.credit.scheme_name)
    if by_estimator is not None and atpo.credit.scheme not in (None, kind.name):
        raise refuse(
            SCHEME_KEY,
            atpo.credit.scheme,
            f"algorithm.adv_estimator={estimator} always uses scheme={kind.name}. Set credit.scheme=null, or "
            f"algorithm.adv_estimator={ATPO}",
        )
    if estimator == ATPO != kind.estimator:
        why = f"{SCHEME_KEY}={kind.name} needs another; set algorithm.adv_estimator={kind.estimator}, or another scheme"
        raise refuse("algorithm.adv_estimator", ATPO, why)
    return kind(atpo)


def own_estimators() -> list[str]:
    """verl's names of the estimators that read the rows of schemes."""
    return list(dict.fromkeys([ATPO, *(kind.estimator for kind in known_schemes().values())]))


def own_losses() -> list[str]:
    """verl's names of the policy losses of this package and its schemes."""
    return list(dict.fromkeys([ATPO, *(kind.loss for kind in known_schemes().values())]))
