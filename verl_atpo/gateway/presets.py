"""The preset ``+agent=gateway``: any agent that speaks chat completions, named in ``rollout.custom.gateway``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from verl_atpo.gateway.settings import GatewayConfig
from verl_atpo.settings import plain

LOOP = "gateway"
LOOPS = Path(__file__).with_name("gateway.yaml")

GATEWAY_PRESETS: dict[str, dict[str, Any]] = {
    "gateway": {
        "actor_rollout_ref": {
            "rollout": {
                "agent": {"default_agent_loop": LOOP, "agent_loop_config_path": str(LOOPS)},
                "calculate_log_probs": True,
                "custom": {"gateway": plain(GatewayConfig())},
            }
        }
    }
}
