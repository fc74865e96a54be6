"""Start-up check of the gateway's settings."""

from __future__ import annotations

import shutil
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from verl_atpo.gateway.presets import LOOP
from verl_atpo.gateway.settings import KEY, GatewayConfig
from verl_atpo.settings import refuse
from verl_atpo.startup.verl_config import DEFAULT_LOOP


def check_gateway(config: DictConfig) -> None:
    """Check the gateway's settings, and that their agent exists.

    Rows may name agents of their own, so no agent at all is refused only when a trajectory of the default loop starts.

    Raises:
        ConfigError: names the setting, its value and the remedy.
    """
    values = OmegaConf.select(config, KEY)
    if OmegaConf.select(config, DEFAULT_LOOP) != LOOP and values is None:
        return
    found = GatewayConfig.from_mapping(None if values is None else OmegaConf.to_container(values, resolve=True))  # type: ignore[arg-type]
    if found.workspace is not None:
        from verl_atpo.gateway.workspaces import agents_provider

        agents_provider(found.workspace)
    if found.agent is None and found.command is None:
        return
    from verl_atpo.gateway.agents import CommandAgent, make_agent

    agent = make_agent(found)
    if isinstance(agent, CommandAgent):
        program = agent.command[0]
        if shutil.which(program) is None and not Path(program).is_file():
            why = f"there is no program {program!r} on the PATH; give its whole path, followed by its arguments"
            raise refuse(f"{KEY}.command", found.command, why)
