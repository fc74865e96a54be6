"""verl's replay buffers with a short poll interval: with a small model, verl's 2 s between polls is most of a step.

verl builds its buffer with the default interval and has no setting for it, but it takes a sampler class from
``trainer.v1.sampler.custom_sampler`` (the preset ``QUICK_SAMPLER_PRESET`` in ``cpu_preset.py`` names
:func:`quick_replay_buffer`, which serves all trainer modes).
"""

from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

SYNC = "sync"


def quick_replay_buffer(*, trainer_mode: str, sampler_kwargs: Any, **kwargs: Any) -> ReplayBuffer:
    """Make verl's own buffer for the trainer mode, polling every ``sampler_kwargs.poll_interval`` seconds.

    verl passes a custom sampler neither its group filter nor its refill switch, so both are read from
    ``sampler_kwargs``: the switch is obeyed, the filter is refused rather than ignored.

    Args:
        trainer_mode: verl's ``trainer.v1.trainer_mode``.
        sampler_kwargs: ``poll_interval`` (seconds, > 0), ``sync_refill_failed_groups`` (bool), ``filter_groups``
            (verl's ``algorithm.filter_groups`` or None).
        **kwargs: passed on to verl's buffer.

    Raises:
        ValueError: an enabled group filter, or an interval that is not positive.
    """
    if (sampler_kwargs.get("filter_groups") or {}).get("enable", False):
        raise _refusal("algorithm.filter_groups.enable=True", "it does not filter groups")
    poll_interval = float(sampler_kwargs.poll_interval)
    if poll_interval <= 0:
        raise _refusal(f"sampler_kwargs.poll_interval={poll_interval}", "expected seconds > 0")
    buffer = ReplayBuffer if trainer_mode == SYNC else ReplayBufferAsync
    return buffer(
        trainer_mode=trainer_mode,
        sampler_kwargs=sampler_kwargs,
        poll_interval=poll_interval,
        sync_refill_failed_groups=bool(sampler_kwargs.get("sync_refill_failed_groups", False)),
        gen_batch_size=1,  # prompts of one refill, which verl wants to be single
        **kwargs,
    )


def _refusal(got: str, why: str) -> ValueError:
    return ValueError(
        f"quick_replay_buffer got {got}: {why}; remedy: trainer.v1.sampler.custom_sampler.path=null (verl's own buffer)"
    )
