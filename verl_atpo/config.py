"""Every setting under ``algorithm.atpo``, one frozen class per concern.

They are read from a nested mapping, without OmegaConf or verl. Unknown keys and impossible values raise
:class:`ConfigError`, which names the setting, the value and the remedy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from verl_atpo.choices import AdvantageMode as AdvantageMode
from verl_atpo.choices import Backup as Backup
from verl_atpo.choices import Budget as Budget
from verl_atpo.choices import Contexts as Contexts
from verl_atpo.choices import Memoize as Memoize
from verl_atpo.choices import Normalize as Normalize
from verl_atpo.choices import ObservationCut as ObservationCut
from verl_atpo.choices import OnOutage as OnOutage
from verl_atpo.choices import Penalty as Penalty
from verl_atpo.choices import Schedule as Schedule
from verl_atpo.choices import SharedTurns as SharedTurns
from verl_atpo.choices import Weights as Weights
from verl_atpo.settings import (
    Amount,
    Count,
    Pause,
    Positive,
    PositiveAmount,
    Share,
    Tries,
    not_a_setting,
    plain,
    read,
    settings,
)
from verl_atpo.settings import ConfigError as ConfigError

ROOT_KEY = "algorithm.atpo"


@settings
class ExpansionConfig:
    """Entropy-guided tree expansion: M chains, then L rounds that re-sample K turns each."""

    initial_chains: Annotated[int, Field(ge=1, le=1024, strict=True)] = 6
    """M, complete trajectories that every tree starts with."""
    branches_per_round: Annotated[int, Field(ge=0, le=1024, strict=True)] = 3
    """K, turns re-sampled in one round."""
    rounds: Annotated[int, Field(ge=0, le=1024, strict=True)] = 2
    """L, expansion rounds; 0 leaves plain chains."""
    penalty: Amount = 0.05
    """alpha, nats taken off a node's score per unit that ``penalty_counts`` counts."""
    penalty_counts: Penalty = Penalty.EXPANSIONS
    """What the penalty counts."""
    strategy: str = "entropy"
    """Name of a registered selection strategy (``entropy``, ``random``, ``other_chains``)."""
    schedule: Schedule = Schedule.CONTINUOUS
    """When the L * K expansions start."""
    start_after: Share = 0.5
    """Share of the chains that have ended when the first expansion starts; of ``schedule=continuous``."""
    in_flight: Positive | None = None
    """Branches of one tree that run at a time, null for no limit; of ``schedule=continuous``."""
    budget: Budget = Budget.FIXED
    """Whether a tree always grows its L * K expansions."""
    success: Annotated[float, Field(allow_inf_nan=False, strict=True)] = 1.0
    """Outcome from which a trajectory has succeeded; of ``budget=adaptive``."""
    spares: Annotated[int, Field(ge=0, le=1024, strict=True)] = 0
    """Branches beyond L * K for a tree with a failure, as far as other trees left theirs; of ``budget=adaptive``."""

    def __post_init__(self) -> None:
        if self.branches_per_round == 0 and self.rounds > 0:
            raise ValueError(
                "branches_per_round=0 cannot work: expected an integer of at least 1 (for plain chains set rounds=0)."
            )
        if self.schedule is Schedule.CONTINUOUS and self.strategy == "other_chains":
            raise ValueError("schedule='continuous' cannot work: other_chains needs every chain; set schedule=rounds.")
        if self.budget is Budget.FIXED and self.spares:
            raise ValueError(f"spares={self.spares} cannot work: fixed budgets leave none; set budget=adaptive, or 0.")

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
    tool_rewards: Amount = 0.0
    """Weight of the rewards that tools give for their calls, beside the outcome; 0 leaves them out."""
    contexts: Contexts = Contexts.SEPARATE
    """Which turns count as sampled in one context, so that values and baselines are means over all of them."""
    mute_above: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)] | None = None
    """Squared score of a turn's tokens above which its advantage falls in proportion, null for never."""
    baseline_weights: bool = False
    """Whether turns of one context count in each other's baseline by their squared score; of ``scheme=shrunk``."""
    scheme: str | None = None
    """Name or import path of the credit scheme; null for the one that the settings above describe."""

    def __post_init__(self) -> None:
        if self.contexts is Contexts.STATES and self.advantage in (AdvantageMode.VALUE, AdvantageMode.DIFF_GLOBAL):
            raise ValueError(
                f"contexts='states' cannot work: advantage={self.advantage.value} has no baseline per context; set "
                "advantage=diff_localglobal or diff_parent, or contexts=separate."
            )
        if self.contexts is not Contexts.SEPARATE and self.weights is Weights.SPLIT:
            raise ValueError(
                f"contexts={self.contexts.value!r} cannot work: baselines of weights=split are those of other chains, "
                "which contexts would mix; set contexts=separate, or weights=per_leaf."
            )
        given = (self.backup, self.advantage, self.shared_turns)
        fitting = (Backup.CHILD_MEAN, AdvantageMode.DIFF_GLOBAL, SharedTurns.PER_LEAF)
        if self.weights is Weights.SPLIT and given != fitting:
            raise ValueError(
                "weights='split' cannot work: expected per_leaf, or with it backup=child_mean, advantage=diff_global "
                "and shared_turns=per_leaf (+atpo=unbiased sets them)."
            )

        own = ("paper", "merged", "returns", "split")
        if self.scheme in own and self.scheme != self._described:
            raise ValueError(
                f"scheme={self.scheme!r} cannot work: the settings beside it (weights={self.weights.value}, "
                f"tool_rewards={self.tool_rewards:g}, contexts={self.contexts.value}) describe "
                f"scheme={self._described}; set scheme=null, or change them."
            )

    @property
    def scheme_name(self) -> str:
        """Name of the credit scheme, or its import path."""
        return self._described if self.scheme is None else self.scheme

    @property
    def _described(self) -> str:
        """Name of the credit scheme that the other settings describe."""
        if self.weights is Weights.SPLIT:
            return "split"
        if self.tool_rewards:
            return "returns"
        return "paper" if self.contexts is Contexts.SEPARATE else "merged"


@settings
class GrowthConfig:
    """What happens to a trajectory that infrastructure ended (engine gone, tool outage)."""

    max_regrows: Tries = 3
    """Times one trajectory is grown again before its whole tree fails."""
    regrow_delay_s: Pause = 1.0
    """Seconds before the first new try; doubles with every further one, to a minute at most."""
    max_bugs: Positive = 3
    """Trees that may fail of errors in the agent loop, a tool or the reward before the run ends, of one step's number
    of trees; 1 ends it at the first."""


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
    max_consecutive_invalid_calls: Positive | None = None
    """Malformed calls in a row (unknown function, no JSON object, required argument missing) that end a trajectory."""


@settings
class WatchConfig:
    """Watchdog of the rollout workers: what stands still is logged with its stack, and after a limit the run ends."""

    warn_s: PositiveAmount = 60.0
    """Seconds after which the log says what stands still and where."""
    limit_s: PositiveAmount | None = 1800.0
    """Seconds that an agent loop may do nothing between its calls, a reward may take or the event loop may be blocked
    before the run ends; null waits for ever."""
    engine_s: PositiveAmount | None = 3600.0
    """Seconds that the engine may take for one generation, null for no limit; after them it counts as an outage."""


@settings
class AtpoConfig:
    """All of ``algorithm.atpo``."""

    expansion: ExpansionConfig = dataclasses.field(default_factory=ExpansionConfig)
    """How trees grow."""
    credit: CreditConfig = dataclasses.field(default_factory=CreditConfig)
    """How outcome rewards become turn advantages."""
    growth: GrowthConfig = dataclasses.field(default_factory=GrowthConfig)
    """What happens to trajectories that fail."""
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
    watch: WatchConfig = dataclasses.field(default_factory=WatchConfig)
    """What may stand still, and how long."""
    of_schemes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Groups of settings that credit schemes brought, by name, where they are not the defaults."""

    def __post_init__(self) -> None:
        if self.expansion.budget is Budget.ADAPTIVE and self.credit.weights is Weights.SPLIT:
            raise ValueError(
                "expansion.budget='adaptive' cannot work: credit.weights=split is unbiased only where outcomes do not "
                "decide how much is sampled; set budget=fixed, or weights=per_leaf."
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any] | None) -> AtpoConfig:
        """Read the settings under ``algorithm.atpo``, those of credit schemes included.

        Args:
            values: nested mapping (a plain dict, or a ``DictConfig`` turned into one); ``None`` means all defaults.

        Raises:
            ConfigError: unknown key, value of the wrong type, value out of range.
        """
        if not isinstance(values, Mapping | None):
            return read(cls, values, ROOT_KEY)  # refuses it
        values, of_schemes = dict(values or {}), {}
        groups = _groups_of_schemes(values)
        names = [*(field.name for field in dataclasses.fields(cls) if field.name != "of_schemes"), *groups]
        for name in values:
            if name not in names:
                raise ConfigError(not_a_setting(f"{ROOT_KEY}.{name}", names))
        for name, kind in groups.items():
            group: Any = read(kind, values.pop(name, {}), f"{ROOT_KEY}.{name}")
            if group != kind():
                of_schemes[name] = group
        return dataclasses.replace(read(cls, values, ROOT_KEY), of_schemes=of_schemes)

    def to_mapping(self) -> dict[str, Any]:
        """Nested dict of plain values, the inverse of :meth:`from_mapping`."""
        values = plain(self)
        del values["of_schemes"]
        groups = {name: self.of_schemes.get(name, kind()) for name, kind in _groups_of_schemes(values).items()}
        return values | {name: plain(group) for name, group in groups.items()}


def _groups_of_schemes(values: Mapping[str, Any]) -> Mapping[str, type]:
    """Groups of settings that the registered credit schemes, and the one that ``values`` name, bring: name -> class."""
    from verl_atpo.method.scheme import settings_groups  # schemes are made of these settings

    credit = values.get("credit")
    return settings_groups(credit.get("scheme") if isinstance(credit, Mapping) else None)
