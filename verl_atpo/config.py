"""Every setting of verl_atpo, one frozen dataclass per concern, read from ``algorithm.atpo``.

Pure Python: this module knows neither OmegaConf nor verl, it takes a nested mapping. Unknown keys and
impossible values raise :class:`ConfigError`, which names the setting, the value and the remedy.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import math
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

ROOT_KEY = "algorithm.atpo"


class ConfigError(ValueError):
    """A setting that cannot work. The message says: setting, value found, what is expected, remedy."""


class Penalty(str, enum.Enum):
    """What the diversity penalty of the expansion score counts."""

    SIBLINGS = "siblings"
    """All children of the node's parent but one, initial chains included (the authors' code)."""
    EXPANSIONS = "expansions"
    """Only children that an expansion grew: the M initial chains are not held against first turns."""


class Backup(str, enum.Enum):
    """How the value of an inner node is made from what lies below it (turn-wise credit assignment)."""

    CHILD_SOFTMAX = "child_softmax"
    CHILD_MEAN = "child_mean"
    LEAF_MEAN = "leaf_mean"


class AdvantageMode(str, enum.Enum):
    """How the advantage of a turn is made from the values V of the tree's nodes."""

    VALUE = "value"
    DIFF_PARENT = "diff_parent"
    DIFF_GLOBAL = "diff_global"
    DIFF_LOCALGLOBAL = "diff_localglobal"


class Normalize(str, enum.Enum):
    """How the leaf rewards of one tree are brought to a common scale."""

    ZSCORE = "zscore"
    """Minus mean, over population standard deviation (the paper)."""
    ZSCORE_SAMPLE = "zscore_sample"
    """Minus mean, over sample standard deviation (verl's GRPO)."""
    CENTER = "center"
    """Minus mean (Dr. GRPO)."""
    NONE = "none"


class SharedTurns(str, enum.Enum):
    """How often a turn that several leaves share is trained."""

    PER_LEAF = "per_leaf"
    """Once in the row of every leaf below it (the authors' code)."""
    ONCE = "once"
    """Only in the row of the leaf that first sampled it; the other rows mask it."""


@dataclasses.dataclass(frozen=True)
class ExpansionConfig:
    """Entropy-guided tree expansion: M chains, then L rounds that re-sample K turns each.

    Attributes:
        initial_chains: M, complete trajectories that every tree starts with.
        branches_per_round: K, turns re-sampled in one round.
        rounds: L, expansion rounds; 0 leaves plain chains.
        penalty: alpha, nats taken off a node's score per unit that ``penalty_counts`` counts.
        penalty_counts: what the penalty counts.
        strategy: name of a registered selection strategy (``entropy``, ``random``).
    """

    initial_chains: int = 8
    branches_per_round: int = 4
    rounds: int = 2
    penalty: float = 0.05
    penalty_counts: Penalty = Penalty.EXPANSIONS
    strategy: str = "entropy"

    def __post_init__(self) -> None:
        key = f"{ROOT_KEY}.expansion"
        _require(self.initial_chains >= 1, f"{key}.initial_chains", self.initial_chains, "an integer of at least 1")
        _require(self.rounds >= 0, f"{key}.rounds", self.rounds, "an integer of at least 0 (0: plain chains)")
        _require(
            self.branches_per_round >= 1 or self.rounds == 0,
            f"{key}.branches_per_round",
            self.branches_per_round,
            "an integer of at least 1 (for plain chains set rounds=0)",
        )
        _require(
            math.isfinite(self.penalty) and self.penalty >= 0, f"{key}.penalty", self.penalty, "a number of at least 0"
        )

    @property
    def leaves(self) -> int:
        """M + L * K, the number of trajectories of every tree."""
        return self.initial_chains + self.rounds * self.branches_per_round


@dataclasses.dataclass(frozen=True)
class CreditConfig:
    """Turn-wise credit assignment.

    Attributes:
        backup: aggregate that makes an inner node's value.
        advantage: what a turn's advantage is.
        normalize: scale of the leaf rewards inside one tree.
        shared_turns: how often a turn shared by several leaves is trained.
    """

    backup: Backup = Backup.CHILD_SOFTMAX
    advantage: AdvantageMode = AdvantageMode.VALUE
    normalize: Normalize = Normalize.ZSCORE
    shared_turns: SharedTurns = SharedTurns.PER_LEAF


@dataclasses.dataclass(frozen=True)
class GrowthConfig:
    """What happens to a branch that dies of infrastructure (engine gone, tool outage), never of the model.

    Attributes:
        max_regrows: times one branch is grown again before its whole tree fails.
        regrow_delay_s: seconds before the first new try; doubles with every further one.
    """

    max_regrows: int = 3
    regrow_delay_s: float = 1.0

    def __post_init__(self) -> None:
        key = f"{ROOT_KEY}.growth"
        _require(self.max_regrows >= 0, f"{key}.max_regrows", self.max_regrows, "an integer of at least 0")
        _require(
            math.isfinite(self.regrow_delay_s) and self.regrow_delay_s >= 0,
            f"{key}.regrow_delay_s",
            self.regrow_delay_s,
            "a number of seconds of at least 0",
        )


@dataclasses.dataclass(frozen=True)
class AtpoConfig:
    """All of ``algorithm.atpo``.

    Attributes:
        expansion: how trees grow.
        credit: how outcome rewards become turn advantages.
        growth: what happens to branches that fail.
        dump_dir: folder for one JSON line per tree; ``None`` writes nothing.
    """

    expansion: ExpansionConfig = dataclasses.field(default_factory=ExpansionConfig)
    credit: CreditConfig = dataclasses.field(default_factory=CreditConfig)
    growth: GrowthConfig = dataclasses.field(default_factory=GrowthConfig)
    dump_dir: str | None = None

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any] | None) -> AtpoConfig:
        """Read the settings under ``algorithm.atpo``.

        Args:
            settings: nested mapping (a plain dict, or a ``DictConfig`` turned into one); ``None`` means all defaults.

        Raises:
            ConfigError: unknown key, value of the wrong type, value out of range.
        """
        return _read(cls, settings or {}, ROOT_KEY)

    def to_mapping(self) -> dict[str, Any]:
        """Nested dict of plain values, the inverse of :meth:`from_mapping`."""
        return _plain(dataclasses.asdict(self))


def _require(ok: bool, setting: str, value: object, expected: str) -> None:
    if not ok:
        raise ConfigError(f"{setting}={value!r} cannot work: expected {expected}.")


_Config = TypeVar("_Config")


def _read(cls: type[_Config], settings: Mapping[str, Any], path: str) -> _Config:
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{path}={settings!r} cannot work: expected a group of settings ({', '.join(_names(cls))}).")
    types = typing.get_type_hints(cls)
    unknown = [key for key in settings if key not in types]
    if unknown:
        close = difflib.get_close_matches(str(unknown[0]), types, n=1)
        hint = f" Did you mean {path}.{close[0]}?" if close else ""
        raise ConfigError(f"{path}.{unknown[0]} is not a setting; valid ones are: {', '.join(types)}.{hint}")
    return cls(**{key: _convert(value, types[key], f"{path}.{key}") for key, value in settings.items()})


def _names(cls: type) -> list[str]:
    return list(typing.get_type_hints(cls))


def _convert(value: Any, expected: Any, path: str) -> Any:
    """Check ``value`` against the annotated type; enums are given by value, ints are good floats."""
    if dataclasses.is_dataclass(expected):
        return _read(typing.cast(type, expected), value, path)
    if isinstance(expected, type) and issubclass(expected, enum.Enum):
        try:
            return expected(value)
        except ValueError:
            choices = ", ".join(str(member.value) for member in expected)
            raise ConfigError(f"{path}={value!r} cannot work: expected one of {choices}.") from None
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    allowed = typing.get_args(expected) or (expected,)
    if (isinstance(value, bool) and bool not in allowed) or not isinstance(value, allowed):
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in allowed)
        raise ConfigError(f"{path}={value!r} cannot work: expected {names}, got {type(value).__name__}.")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.value if isinstance(value, enum.Enum) else value
