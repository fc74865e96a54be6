"""The closed sets of values that settings choose from."""

from __future__ import annotations

import enum


class Penalty(str, enum.Enum):
    """Children that the diversity penalty of the expansion score counts."""

    SIBLINGS = "siblings"
    """All children of the node's parent minus one, initial chains included (the authors' code)."""
    EXPANSIONS = "expansions"
    """Only children that an expansion grew: the M initial chains do not lower the score of first turns."""


class Schedule(str, enum.Enum):
    """Time at which expansions start."""

    ROUNDS = "rounds"
    """K at a time, whenever all trajectories have ended (the paper)."""
    CONTINUOUS = "continuous"
    """As chains end, at the best turns sampled so far, those of running trajectories included."""
    STAGGERED = "staggered"
    """One after another while chains run, as their expected turns pass; like ``continuous`` until a tree is known."""


class Budget(str, enum.Enum):
    """Number of expansions that a tree grows."""

    FIXED = "fixed"
    """Always L * K (the paper)."""
    ADAPTIVE = "adaptive"
    """None while every trajectory of the tree has succeeded: equal outcomes give no gradient."""


class Backup(str, enum.Enum):
    """Aggregate that computes an inner node's value from the nodes below it (turn-wise credit assignment)."""

    CHILD_SOFTMAX = "child_softmax"
    CHILD_MEAN = "child_mean"
    LEAF_MEAN = "leaf_mean"


class AdvantageMode(str, enum.Enum):
    """Formula of a turn's advantage, from the values V of the tree's nodes."""

    VALUE = "value"
    DIFF_PARENT = "diff_parent"
    DIFF_GLOBAL = "diff_global"
    DIFF_LOCALGLOBAL = "diff_localglobal"
    DIFF_CONTEXT = "diff_context"
    """V minus one baseline: the context's value where other turns were sampled in it, else that of the turn before."""


class Normalize(str, enum.Enum):
    """Normalization of the leaf rewards of one tree."""

    ZSCORE = "zscore"
    """Minus the mean, divided by the population standard deviation (the paper)."""
    ZSCORE_SAMPLE = "zscore_sample"
    """Minus the mean, divided by the sample standard deviation (verl's GRPO)."""
    CENTER = "center"
    """Minus the mean (Dr. GRPO)."""
    NONE = "none"


class SharedTurns(str, enum.Enum):
    """Number of times that a turn shared by several leaves is trained."""

    PER_LEAF = "per_leaf"
    """Once in the row of every leaf below it (the authors' code)."""
    ONCE = "once"
    """Only in the row of the leaf that first sampled it; the other rows mask it."""


class Weights(str, enum.Enum):
    """Weight of a turn that an expansion re-sampled, or that several leaves share."""

    PER_LEAF = "per_leaf"
    """Once for every leaf below it: contexts that were expanded count more (the paper)."""
    SPLIT = "split"
    """The n turns that were sampled in a context share its weight, and baselines leave a turn's own chain out."""


class Contexts(str, enum.Enum):
    """Turns that count as sampled in one context, for values and for the baseline (the previous turn's value)."""

    SEPARATE = "separate"
    """Children of one node (the paper)."""
    MERGED = "merged"
    """Turns in contexts of equal token ids, whichever trajectories they are in."""
    STATES = "states"
    """Turns after observations of equal token ids, whatever came before (GiGPO's anchor states); baselines only."""


class OnOutage(str, enum.Enum):
    """Handling of a trajectory whose tool still fails after all retries (an outage)."""

    REGROW = "regrow"
    """It is sampled again, at most ``growth.max_regrows`` times."""
    OBSERVE = "observe"
    """The model reads that the tool is unavailable, and continues."""


class ObservationCut(str, enum.Enum):
    """Part of a too long observation that is left out."""

    HEAD = "head"
    MIDDLE = "middle"
    TAIL = "tail"


class Memoize(str, enum.Enum):
    """Scope within which equal calls of a stateless tool are made only once."""

    NEVER = "never"
    TREE = "tree"
    """Within one tree."""
    RUN = "run"
    """Across all trees of a rollout worker; only for tools that always answer the same."""
