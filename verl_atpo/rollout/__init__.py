"""The tree rollout, verl's sampler replaced: one prompt becomes one tree of trajectories."""

from verl_atpo.rollout.manager import TreeAgentLoopManager

__all__ = ["TreeAgentLoopManager"]
