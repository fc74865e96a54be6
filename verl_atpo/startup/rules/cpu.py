"""Rules about settings that cannot work on a machine without GPU (``+platform=cpu``)."""

from __future__ import annotations

from verl_atpo.startup.rules.rule import Rule, Run, value_rule
from verl_atpo.startup.verl_config import STRATEGY

MODEL = "actor_rollout_ref.model"
NO_LORA = (
    "adapters cannot work with +platform=cpu: vLLM on a CPU does not take their weights over, and the run would hang; "
    "set {}, or train on a GPU"
)


def _on_cpu(run: Run) -> bool:
    return run.get("trainer.device") == "cpu"


RULES: tuple[Rule, ...] = (
    value_rule(f"{MODEL}.lora_rank", lambda rank: rank == 0, NO_LORA.format(f"{MODEL}.lora_rank=0"), _on_cpu),
    value_rule(
        f"{MODEL}.lora_adapter_path",
        lambda path: not path,
        NO_LORA.format(f"{MODEL}.lora_adapter_path=null"),
        _on_cpu,
    ),
    value_rule(
        STRATEGY,
        lambda strategy: strategy == "fsdp2",
        "with +platform=cpu only fsdp2 works; set fsdp2",
        _on_cpu,
    ),
)
