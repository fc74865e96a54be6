"""Every setting under ``algorithm.atpo``, one frozen class per concern.

They are read from a nested mapping, without OmegaConf or verl. Unknown keys and impossible values raise
:class:`ConfigError`, which names the setting, the value and the remedy.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from verl_atpo.settings import Amount, Count, Pause, Positive, Share, Tries, plain, read, settings
from verl_atpo.settings import ConfigError as ConfigError

ROOT_KEY = "algorithm.atpo"


class Penalty(str, enum.Enum):
    """What the diversity penalty of the expansion score counts."""

    SIBLINGS = "siblings"
    """All children of the node's parent but one, initial chains included (the authors' code)."""
    EXPANSIONS = "expansions"
    """Only children that an expansion grew: the M initial chains are not held against first turns."""


class Schedule(str, enum.Enum):
    """When branches start."""

    ROUNDS = "rounds"
    """K at a time, each time all branches have ended (the paper)."""
    CONTINUOUS = "continuous"
    """As chains end, at the best of the turns known by then, those of running branches included."""


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


class Weights(str, enum.Enum):
    """How much a turn counts that an expansion sampled anew, or that several leaves share."""

    PER_LEAF = "per_leaf"
    """Once for every leaf below it: contexts that were expanded count more (the paper)."""
    SPLIT = "split"
    """The n turns that were sampled in a context share its weight, and baselines leave a turn's own chain out."""


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


@settings
class ExpansionConfig:
    """Entropy-guided tree expansion: M chains, then L rounds that re-sample K turns each."""

    initial_chains: Annotated[int, Field(ge=1, le=1024, strict=True)] = 8
    """M, complete trajectories that every tree starts with."""
    branches_per_round: Annotated[int, Field(ge=0, le=1024, strict=True)] = 4
    """K, turns re-sampled in one round."""
    rounds: Annotated[int, Field(ge=0, le=1024, strict=True)] = 2
    """L, expansion rounds; 0 leaves plain chains."""
    penalty: Amount = 0.05
    """alpha, nats taken off a node's score per unit that ``penalty_counts`` counts."""
    penalty_counts: Penalty = Penalty.EXPANSIONS
    """What the penalty counts."""
    strategy: str = "entropy"
    """Name of a registered selection strategy (``entropy``, ``random``, ``other_chains``)."""
    schedule: Schedule = Schedule.ROUNDS
    """When the L * K branches start."""
    start_after: Share = 0.5
    """Share of the chains that have ended when the first branch starts; of ``schedule=continuous``."""
    in_flight: Positive | None = None
    """Branches of one tree that run at a time, null for no limit; of ``schedule=continuous``."""

    def __post_init__(self) -> None:
        if self.branches_per_round == 0 and self.rounds > 0:
            raise ValueError(
                "branches_per_round=0 cannot work: expected an integer of at least 1 (for plain chains set rounds=0)."
            )
        if self.schedule is Schedule.CONTINUOUS and self.strategy == "other_chains":
            raise ValueError("schedule='continuous' cannot work: other_chains needs every chain; set schedule=rounds.")

    @property
    def leaves(self) -> int:
        """M + L * K, the number of trajectories of every tree."""
        return self.initial_chains + self.rounds * self.branches_per_round


@settings
class CreditConfig:
    """Turn-wise credit assignment."""

    backup: Backup = Backup.CHILD_SOFTMAX
    """Aggregate that makes an inner node's value."""
    advantage: AdvantageMode = AdvantageMode.VALUE
    """What a turn's advantage is."""
    normalize: Normalize = Normalize.ZSCORE
    """Scale of the leaf rewards inside one tree."""
    shared_turns: SharedTurns = SharedTurns.PER_LEAF
    """How often a turn shared by several leaves is trained."""
    weights: Weights = Weights.PER_LEAF
    """How much each sample of a turn counts; ``split`` makes the tree's gradient that of chains."""

    def __post_init__(self) -> None:
        given = (self.backup, self.advantage, self.shared_turns)
        fitting = (Backup.CHILD_MEAN, AdvantageMode.DIFF_GLOBAL, SharedTurns.PER_LEAF)
        if self.weights is Weights.SPLIT and given != fitting:
            raise ValueError(
                "weights='split' cannot work: expected per_leaf, or with it backup=child_mean, advantage=diff_global "
                "and shared_turns=per_leaf (+atpo=unbiased sets them)."
            )


@settings
class GrowthConfig:
    """What happens to a branch that dies of infrastructure (engine gone, tool outage), never of the model."""

    max_regrows: Tries = 3
    """Times one branch is grown again before its whole tree fails."""
    regrow_delay_s: Pause = 1.0
    """Seconds before the first new try; doubles with every further one, to a minute at most."""


@settings
class ToolConfig:
    """What stands around every live tool call."""

    timeout_s: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False, strict=True)] | None = 120.0
    """Seconds one try may take, null for no limit; a call that takes longer is an outage."""
    retries: Tries = 2
    """Further tries of a stateless tool's call after a transient error or a time-out."""
    retry_delay_s: Pause = 0.5
    """Seconds before the first further try; doubles with each, with jitter."""
    max_calls: Positive | None = None
    """Calls per trajectory, null for no limit; the model is told that the limit is reached."""
    concurrency: Positive | None = 256
    """Calls of one tool at once in one rollout worker, null for no limit."""
    max_observation_tokens: Positive | None = 2048
    """Longest observation, null for no limit; ``multi_turn.max_tool_response_length`` in characters applies as well."""
    observation_cut: ObservationCut = ObservationCut.TAIL
    """Which part of a longer one is left out."""
    on_outage: OnOutage = OnOutage.REGROW
    """What becomes of a trajectory whose tool is out."""
    memoize: Memoize = Memoize.NEVER
    """Where equal calls of stateless tools are made only once."""
    memo_size: Positive = 4096
    """Calls remembered."""


@settings
class AtpoConfig:
    """All of ``algorithm.atpo``."""

    expansion: ExpansionConfig = dataclasses.field(default_factory=ExpansionConfig)
    """How trees grow."""
    credit: CreditConfig = dataclasses.field(default_factory=CreditConfig)
    """How outcome rewards become turn advantages."""
    growth: GrowthConfig = dataclasses.field(default_factory=GrowthConfig)
    """What happens to branches that fail."""
    tools: ToolConfig = dataclasses.field(default_factory=ToolConfig)
    """What stands around tool calls."""
    dump_dir: str | None = None
    """Folder for one JSON line per tree; null writes nothing."""
    dump_every: Positive = 1
    """Steps from one whose trees are dumped to the next; the first step's are."""
    dump_max: Positive | None = None
    """Trees dumped of a step, the first of its batch; null for all."""
    log_trees: Count = 0
    """Trees of a step that verl's loggers wandb and TensorBoard show."""

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any] | None) -> AtpoConfig:
        """Read the settings under ``algorithm.atpo``.

        Args:
            values: nested mapping (a plain dict, or a ``DictConfig`` turned into one); ``None`` means all defaults.

        Raises:
            ConfigError: unknown key, value of the wrong type, value out of range.
        """
        return read(cls, values or {}, ROOT_KEY)

    def to_mapping(self) -> dict[str, Any]:
        """Nested dict of plain values, the inverse of :meth:`from_mapping`."""
        return plain(self)
