"""Settings of the gateway, under ``actor_rollout_ref.rollout.custom.gateway``."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from verl_atpo.settings import Pause, Positive, Share, read, settings
from verl_atpo.tools.workspace.config import WorkspaceConfig

KEY = "actor_rollout_ref.rollout.custom.gateway"

PositiveSeconds = Annotated[float, Field(gt=0, le=604800, allow_inf_nan=False, strict=True)]


class OnCrash(str, enum.Enum):
    """Consequence of an agent's crash."""

    SCORE = "score"
    """The reward function scores what it did until then."""
    STOP = "stop"
    """The training run stops."""


@settings
class GatewayConfig:
    """Settings for running an agent, and its limits at the endpoint."""

    agent: str | None = None
    """Function to run, as package.module:function or path/to/file.py:function; it gets (task, base_url, api_key), and
    the workspace if there is one."""
    command: str | list[str] | None = None
    """Command line to run instead of a function, in a folder of its own; a text is split as a shell would."""
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    """Further environment variables of the command."""
    workspace: WorkspaceConfig | None = None
    """Settings of a workspace for each trajectory, {} for the defaults; null for none."""
    timeout_s: PositiveSeconds = 600.0
    """Seconds one trajectory may take; then the agent is ended and what it did is scored."""
    grace_s: Pause = 5.0
    """Seconds between asking an agent to end and killing it."""
    max_calls: Positive | None = 200
    """Calls of the model per trajectory, null for no limit."""
    max_tokens: Positive | None = None
    """Sampled tokens per trajectory, null for no limit beyond those of its rows."""
    parallel_calls: Positive = 16
    """Calls of one trajectory that are answered at a time; further ones wait."""
    concurrency: Positive = 64
    """Agents that run at a time in one rollout worker; further ones wait."""
    output_bytes: Positive = 65536
    """Bytes of a command's output, and of its errors, that are kept: the last ones."""
    result_bytes: Positive = 1048576
    """Bytes of the longest result file of a command."""
    request_bytes: Positive = 8388608
    """Bytes of the longest request; longer ones are refused."""
    read_s: PositiveSeconds = 30.0
    """Seconds in which a request's body has to arrive."""
    connections: Positive = 1024
    """Connections of the endpoint at a time; further ones are refused."""
    on_crash: OnCrash = OnCrash.SCORE
    """Consequence of an agent's crash."""
    max_crash_share: Share = 0.5
    """Share of a worker's trajectories that may crash before the run stops, judged from the twentieth on."""
    ignore: list[str] = dataclasses.field(default_factory=list)
    """Regular expressions of what may differ between a prompt and its recording: times, random ids."""

    def __post_init__(self) -> None:
        if self.agent is not None and self.command is not None:
            raise ValueError(
                f"agent={self.agent!r} cannot work beside command={self.command!r}: expected one of them; set the "
                "other to null."
            )
        for pattern in self.ignore:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"ignore={pattern!r} cannot work: expected a regular expression ({error}).") from None

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any] | None) -> GatewayConfig:
        """Read the settings under :data:`KEY`; ``None`` gives the defaults.

        Raises:
            ConfigError: unknown key, value of the wrong type, value out of range.
        """
        return read(cls, values or {}, KEY)
