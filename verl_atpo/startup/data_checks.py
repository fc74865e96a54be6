"""What a batch of data rows must look like; a row that does not stops the run, with its name and a remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tensordict import NonTensorData, TensorDict
from transformers import PreTrainedTokenizerBase

from verl_atpo.config import ConfigError

TOOL_SETTINGS = "actor_rollout_ref.rollout.multi_turn.tool_config_path or function_tool_path"


def check_rows(batch: TensorDict, config: DictConfig, tokenizer: PreTrainedTokenizerBase, tools: Sequence[str]) -> None:
    """Refuse rows that cannot work.

    Args:
        batch: verl's prompts.
        config: verl's whole config.
        tokenizer: the model's.
        tools: names of the tools on offer.

    Raises:
        ConfigError: an empty prompt, one longer than verl's limit where truncation is an error, or a tool that is not
            there.
    """
    limit = OmegaConf.select(config, "data.max_prompt_length")
    strict = OmegaConf.select(config, "data.truncation") == "error"
    prompts = column(batch, "raw_prompt")
    infos = column(batch, "extra_info")
    kwargs = column(batch, "tools_kwargs")
    for row in range(len(batch)):
        name = f"row {row} of the batch (extra_info={infos[row]})"
        if prompts[row] is not None:
            _check_prompt(prompts[row], name, tokenizer, limit if strict else None)
        info = infos[row] if isinstance(infos[row], Mapping) else {}
        _check_tools(list(info.get("tool_selection") or ()), "extra_info.tool_selection", name, tools)
        _check_tools(list(kwargs[row] or ()), "tools_kwargs", name, tools)


def column(batch: TensorDict, key: str) -> list[Any]:
    """The values of a column, one per row; all None where there is none."""
    if key not in batch:
        return [None] * len(batch)
    values = batch.get(key)
    return [values.data] * len(batch) if isinstance(values, NonTensorData) else values.tolist()


def _check_prompt(
    messages: Sequence[Mapping[str, Any]], name: str, tokenizer: PreTrainedTokenizerBase, limit: int | None
) -> None:
    if not any(message.get("content") for message in messages):
        raise ConfigError(f"The prompt of {name} is empty: {list(messages)}. Remove the row, or fill data.prompt_key.")
    if limit is None or not all(isinstance(message.get("content"), str) for message in messages):
        return
    ids = tokenizer.apply_chat_template(
        [dict(message) for message in messages], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    if len(ids) > limit:
        raise ConfigError(
            f"The prompt of {name} has {len(ids)} tokens, more than data.max_prompt_length={limit}, and "
            "data.truncation=error. Raise the limit, set data.filter_overlong_prompts=True, or another truncation."
        )


def _check_tools(wanted: Sequence[str], field: str, name: str, tools: Sequence[str]) -> None:
    if unknown := sorted(set(wanted) - set(tools)):
        raise ConfigError(
            f"{field} of {name} names the tools {unknown}, but there are only {sorted(tools)}; correct the data, or "
            f"add them by {TOOL_SETTINGS}."
        )
