"""Every setting under ``algorithm.atpo``, one frozen class per concern.

Settings are read from a nested mapping, without OmegaConf or verl. Unknown keys and impossible values raise
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
from verl_atpo.extensions import import_extensions
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
    """M, independent trajectories that every tree starts with."""
    branches_per_round: Annotated[int, Field(ge=0, le=1024, strict=True)] = 3
    """K, turns re-sampled in one round."""
    rounds: Annotated[int, Field(ge=0, le=1024, strict=True)] = 2
    """L, expansion rounds; 0 leaves plain chains."""
    penalty: Amount = 0.05
    """alpha, nats subtracted from a node's score per child that ``penalty_counts`` counts."""
    penalty_counts: Penalty = Penalty.EXPANSIONS
    """Children that the penalty counts."""
    strategy: str = "entropy"
    """Name of a registered selection strategy (``entropy``, ``noise``, ``random``, ``other_chains``)."""
    schedule: Schedule = Schedule.CONTINUOUS
    """Time at which the L * K expansions start."""
    start_after: Share = 0.5
    """Share of the chains that have ended when the first expansion starts; for ``schedule=continuous``, and with
    ``staggered`` for the first trees, when the number of turns is not known."""
    in_flight: Positive | None = None
    """Trajectories of one tree that run at a time, null for no limit; for ``schedule=continuous`` and ``staggered``."""
    budget: Budget = Budget.FIXED
    """Number of expansions: always L * K, or none while every trajectory has succeeded."""
    success: Annotated[float, Field(allow_inf_nan=False, strict=True)] = 1.0
    """Lowest outcome of a successful trajectory; for ``budget=adaptive``."""
    spares: Annotated[int, Field(ge=0, le=1024, strict=True)] = 0
    """Expansions beyond L * K for a tree with a failure, if other trees used fewer; for ``budget=adaptive``."""
    first_at: Share = 0.2
    """Share of the chains' expected turns that is sampled when the first expansion starts; for
    ``schedule=staggered``."""
    last_at: Share = 0.6
    """Share of the chains' expected turns that is sampled when the last expansion starts; for
    ``schedule=staggered``."""

    def __post_init__(self) -> None:
        if self.branches_per_round == 0 and self.rounds > 0:
            raise ValueError(
                "branches_per_round=0 cannot work: expected an integer of at least 1 (for plain chains set rounds=0)."
            )
        if self.schedule is not Schedule.ROUNDS and self.strategy == "other_chains":
            raise ValueError(
                f"schedule={self.schedule.value!r} cannot work: other_chains needs every chain; set schedule=rounds."
            )
        if self.first_at > self.last_at:
            raise ValueError(
                f"first_at={self.first_at:g} cannot work: expected at most last_at ({self.last_at:g}), because the "
                "last expansion does not start before the first."
            )
        if self.budget is Budget.FIXED and self.spares:
            raise ValueError(f"spares={self.spares} cannot work: fixed budgets leave none; set budget=adaptive, or 0.")

    @property
    def leaves(self) -> int:
        """Number of trajectories of every tree, M + L * K."""
        return self.initial_chains + self.rounds * self.branches_per_round


@settings
class CreditConfig:
    """Turn-wise credit assignment."""

    backup: Backup = Backup.CHILD_SOFTMAX
    """Aggregate that computes an inner node's value."""
    advantage: AdvantageMode = AdvantageMode.VALUE
    """Formula of a turn's advantage."""
    normalize: Normalize = Normalize.ZSCORE
    """Normalization of the leaf rewards of one tree."""
    shared_turns: SharedTurns = SharedTurns.PER_LEAF
    """Number of times that a turn shared by several leaves is trained."""
    weights: Weights = Weights.PER_LEAF
    """Weight of each sample of a turn; ``split`` makes the tree's gradient that of chains."""
    tool_rewards: Amount = 0.0
    """Weight of the rewards that tools give for their calls, relative to the outcome; 0 leaves them out."""
    contexts: Contexts = Contexts.SEPARATE
    """Turns that count as sampled in one context; values and baselines are means over all of them."""
    mute_above: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)] | None = None
    """Squared score of a turn's tokens above which its advantage shrinks in proportion, null for never."""
    baseline_weights: bool = False
    """Weight turns of one context by their squared score in each other's baseline; for ``scheme=shrunk``."""
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
                f"scheme={self.scheme!r} cannot work: the other settings (weights={self.weights.value}, "
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
    """Re-sampling of trajectories that an outage ended (engine gone, tool out), and the limit on bugs."""

    max_regrows: Tries = 3
    """Times that one trajectory is sampled again before its whole tree fails."""
    regrow_delay_s: Pause = 1.0
    """Seconds before the first retry; doubles with each further one, up to a minute."""
    max_bugs: Positive = 3
    """Failed trees that end the run, counted over as many trees as one step has; 1 ends it at the first. Only errors in
    the agent loop, a tool or the reward count."""


@settings
class ToolConfig:
    """Limits, retries and observations of tool calls that are really made."""

    timeout_s: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False, strict=True)] | None = 120.0
    """Seconds that one attempt may take, null for no limit; a longer call is an outage."""
    retries: Tries = 2
    """Retries of a stateless tool's call after a transient error or a time-out."""
    retry_delay_s: Pause = 0.5
    """Seconds before the first retry; doubles with each further one, with jitter."""
    max_calls: Positive | None = None
    """Calls per trajectory, null for no limit; at the limit the model reads that it is reached."""
    concurrency: Positive | None = 256
    """Calls of one tool at once in one rollout worker, null for no limit."""
    max_observation_tokens: Positive | None = 2048
    """Longest observation, null for no limit; ``multi_turn.max_tool_response_length`` in characters applies as well."""
    observation_cut: ObservationCut = ObservationCut.TAIL
    """Part of a longer observation that is left out."""
    on_outage: OnOutage = OnOutage.REGROW
    """Handling of a trajectory whose tool has an outage."""
    memoize: Memoize = Memoize.NEVER
    """Scope within which equal calls of stateless tools are made only once."""
    memo_size: Positive = 4096
    """Number of calls that are remembered."""
    max_consecutive_invalid_calls: Positive | None = None
    """Malformed calls in a row (unknown function, no JSON object, required argument missing) that end a trajectory."""


@settings
class WatchConfig:
    """Watchdog of the rollout workers: logs the stack of anything that hangs, and ends the run after a limit."""

    warn_s: PositiveAmount = 60.0
    """Seconds after which the log says what hangs and where."""
    limit_s: PositiveAmount | None = 1800.0
    """Seconds that an agent loop may do nothing between its calls, a reward may take or the event loop may be blocked
    before the run ends; null waits for ever."""
    engine_s: PositiveAmount | None = 3600.0
    """Seconds that the engine may take for one generation, null for no limit; a longer one is an outage."""


@settings
class AtpoConfig:
    """All of ``algorithm.atpo``."""

    expansion: ExpansionConfig = dataclasses.field(default_factory=ExpansionConfig)
    """Growth of trees."""
    credit: CreditConfig = dataclasses.field(default_factory=CreditConfig)
    """Turn advantages from outcome rewards."""
    growth: GrowthConfig = dataclasses.field(default_factory=GrowthConfig)
    """Handling of trajectories that fail."""
    tools: ToolConfig = dataclasses.field(default_factory=ToolConfig)
    """Limits and retries of tool calls."""
    dump_dir: str | None = None
    """Folder for one JSON line per tree; null writes nothing."""
    dump_every: Positive = 1
    """Interval in steps at which trees are dumped, from the first step on."""
    dump_max: Positive | None = None
    """Trees that are dumped per step, the first of its batch; null for all."""
    log_trees: Count = 0
    """Trees per step that verl's loggers wandb and TensorBoard show."""
    watch: WatchConfig = dataclasses.field(default_factory=WatchConfig)
    """Limits on how long anything may hang."""
    extensions: tuple[str, ...] = ()
    """Modules that are imported before the settings are read; they register schemes, strategies, rules or metrics."""
    of_schemes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Groups of settings of credit schemes that differ from their defaults, by name."""

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
        import_extensions(values.get("extensions"))
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
    """Map names to classes of the settings of all registered credit schemes and of the one that ``values`` name."""
    from verl_atpo.method.scheme import settings_groups  # the module imports this one

    credit = values.get("credit")
    return settings_groups(credit.get("scheme") if isinstance(credit, Mapping) else None)
