"""Every setting of verl_atpo, one frozen dataclass per concern, read from ``algorithm.atpo``.

Pure Python: this module knows neither OmegaConf nor verl, it takes a nested mapping. Unknown keys and
impossible values raise :class:`ConfigError`, which names the setting, the value and the remedy.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any

from verl_atpo.settings import ConfigError, plain, read, require

ROOT_KEY = "algorithm.atpo"

__all__ = [
    "ROOT_KEY",
    "AdvantageMode",
    "AtpoConfig",
    "Backup",
    "ConfigError",
    "CreditConfig",
    "ExpansionConfig",
    "GrowthConfig",
    "Memoize",
    "Normalize",
    "ObservationCut",
    "OnOutage",
    "Penalty",
    "SharedTurns",
    "ToolConfig",
]


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


class OnOutage(str, enum.Enum):
    """What becomes of a trajectory whose tool's infrastructure failed past its retries."""

    REGROW = "regrow"
    """It is grown again, within ``growth.max_regrows``."""
    OBSERVE = "observe"
    """The model reads that the tool is unavailable, and goes on."""


class ObservationCut(str, enum.Enum):
    """Which part of a too long observation is left out."""

    HEAD = "head"
    MIDDLE = "middle"
    TAIL = "tail"


class Memoize(str, enum.Enum):
    """Where equal calls of a stateless tool are made only once."""

    NEVER = "never"
    TREE = "tree"
    """Within one tree."""
    RUN = "run"
    """Across all trees of a rollout worker; only for tools that always answer the same."""


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
        require(self.initial_chains >= 1, f"{key}.initial_chains", self.initial_chains, "an integer of at least 1")
        require(self.rounds >= 0, f"{key}.rounds", self.rounds, "an integer of at least 0 (0: plain chains)")
        require(
            self.branches_per_round >= 1 or self.rounds == 0,
            f"{key}.branches_per_round",
            self.branches_per_round,
            "an integer of at least 1 (for plain chains set rounds=0)",
        )
        require(
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
        require(self.max_regrows >= 0, f"{key}.max_regrows", self.max_regrows, "an integer of at least 0")
        require(
            math.isfinite(self.regrow_delay_s) and self.regrow_delay_s >= 0,
            f"{key}.regrow_delay_s",
            self.regrow_delay_s,
            "a number of seconds of at least 0",
        )


@dataclasses.dataclass(frozen=True)
class ToolConfig:
    """What stands around every live tool call.

    Attributes:
        timeout_s: seconds one try may take, ``None`` for no limit; a call that takes longer is an outage.
        retries: further tries of a stateless tool's call after a transient error or a time-out.
        retry_delay_s: seconds before the first further try; doubles with each, with jitter.
        max_calls: calls per trajectory; the model is told that the limit is reached. ``None`` for no limit.
        concurrency: calls of one tool at once in one rollout worker, ``None`` for no limit.
        max_observation_tokens: longest observation, ``None`` for no limit (verl's
            ``multi_turn.max_tool_response_length`` in characters applies as well).
        observation_cut: which part of a longer one is left out.
        on_outage: what becomes of a trajectory whose tool is out.
        memoize: where equal calls of stateless tools are made only once.
        memo_size: calls remembered.
    """

    timeout_s: float | None = 120.0
    retries: int = 2
    retry_delay_s: float = 0.5
    max_calls: int | None = None
    concurrency: int | None = 256
    max_observation_tokens: int | None = 2048
    observation_cut: ObservationCut = ObservationCut.TAIL
    on_outage: OnOutage = OnOutage.REGROW
    memoize: Memoize = Memoize.NEVER
    memo_size: int = 4096

    def __post_init__(self) -> None:
        key = f"{ROOT_KEY}.tools"
        timeout = self.timeout_s
        require(
            timeout is None or (math.isfinite(timeout) and timeout > 0),
            f"{key}.timeout_s",
            timeout,
            "a number of seconds above 0, or null for no limit",
        )
        require(self.retries >= 0, f"{key}.retries", self.retries, "an integer of at least 0")
        require(
            math.isfinite(self.retry_delay_s) and self.retry_delay_s >= 0,
            f"{key}.retry_delay_s",
            self.retry_delay_s,
            "a number of seconds of at least 0",
        )
        for name in ("max_calls", "concurrency", "max_observation_tokens"):
            value = getattr(self, name)
            require(
                value is None or value >= 1, f"{key}.{name}", value, "an integer of at least 1, or null for no limit"
            )
        require(self.memo_size >= 1, f"{key}.memo_size", self.memo_size, "an integer of at least 1")


@dataclasses.dataclass(frozen=True)
class AtpoConfig:
    """All of ``algorithm.atpo``.

    Attributes:
        expansion: how trees grow.
        credit: how outcome rewards become turn advantages.
        growth: what happens to branches that fail.
        tools: what stands around tool calls.
        dump_dir: folder for one JSON line per tree; ``None`` writes nothing.
    """

    expansion: ExpansionConfig = dataclasses.field(default_factory=ExpansionConfig)
    credit: CreditConfig = dataclasses.field(default_factory=CreditConfig)
    growth: GrowthConfig = dataclasses.field(default_factory=GrowthConfig)
    tools: ToolConfig = dataclasses.field(default_factory=ToolConfig)
    dump_dir: str | None = None

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any] | None) -> AtpoConfig:
        """Read the settings under ``algorithm.atpo``.

        Args:
            settings: nested mapping (a plain dict, or a ``DictConfig`` turned into one); ``None`` means all defaults.

        Raises:
            ConfigError: unknown key, value of the wrong type, value out of range.
        """
        return read(cls, settings or {}, ROOT_KEY)

    def to_mapping(self) -> dict[str, Any]:
        """Nested dict of plain values, the inverse of :meth:`from_mapping`."""
        return plain(dataclasses.asdict(self))
