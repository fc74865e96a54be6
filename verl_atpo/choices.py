"""The closed sets of values that settings choose from."""

from __future__ import annotations

import enum


class Penalty(str, enum.Enum):
    """What the diversity penalty of the expansion score counts."""

    SIBLINGS = "siblings"
    """All children of the node's parent but one, initial chains included (the authors' code)."""
    EXPANSIONS = "expansions"
    """Only children that an expansion grew: the M initial chains are not held against first turns."""


class Schedule(str, enum.Enum):
    """When expansions start."""

    ROUNDS = "rounds"
    """K at a time, each time all trajectories have ended (the paper)."""
    CONTINUOUS = "continuous"
    """As chains end, at the best of the turns known by then, those of running trajectories included."""


class Budget(str, enum.Enum):
    """How many expansions a tree grows."""

    FIXED = "fixed"
    """Always L * K (the paper)."""
    ADAPTIVE = "adaptive"
    """None while every trajectory of the tree has succeeded: equal outcomes teach nothing."""


class Backup(str, enum.Enum):
    """How the value of an inner node is made from those below it (turn-wise credit assignment)."""

    CHILD_SOFTMAX = "child_softmax"
    CHILD_MEAN = "child_mean"
    LEAF_MEAN = "leaf_mean"


class AdvantageMode(str, enum.Enum):
    """How the advantage of a turn is made from the values V of the tree's nodes."""

    VALUE = "value"
    DIFF_PARENT = "diff_parent"
    DIFF_GLOBAL = "diff_global"
    DIFF_LOCALGLOBAL = "diff_localglobal"
    DIFF_CONTEXT = "diff_context"
    """V minus one baseline: the context's value where other turns were sampled in it, else that of the turn before."""


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


class Contexts(str, enum.Enum):
    """Which turns count as sampled in one context, for values and the turn before's value (the baseline)."""

    SEPARATE = "separate"
    """Children of one node (the paper)."""
    MERGED = "merged"
    """Turns in contexts of equal token ids, whichever trajectories they are in."""
    STATES = "states"
    """Turns after observations of equal token ids, whatever came before (GiGPO's anchor states); baselines only."""


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
