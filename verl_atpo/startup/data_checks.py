"""What a batch of data rows must look like; a row that does not stops the run, with its name and a remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from tensordict import NonTensorData, TensorDict
from transformers import PreTrainedTokenizerBase

from verl_atpo.config import ConfigError
from verl_atpo.settings import did_you_mean, show

TOOL_SETTINGS = "actor_rollout_ref.rollout.multi_turn.tool_config_path or function_tool_path"
ROLES = ("system", "user", "assistant", "tool", "developer")
SCORED_BY_TRUTH = ("naive", "dapo")
"""verl's reward managers that hand ``reward_model.ground_truth`` to the reward function."""


def check_rows(batch: TensorDict, config: DictConfig, tokenizer: PreTrainedTokenizerBase, tools: Sequence[str]) -> None:
    """Refuse rows that cannot work.

    Args:
        batch: verl's prompts.
        config: verl's whole config.
        tokenizer: the model's.
        tools: names of the tools on offer.

    Raises:
        ConfigError: a prompt that is no list of messages, is empty, or longer than verl's limit where truncation is an
            error; a column of another type than verl reads; a tool that is not there.
    """
    limit = OmegaConf.select(config, "data.max_prompt_length")
    strict = OmegaConf.select(config, "data.truncation") == "error"
    truth = OmegaConf.select(config, "reward.reward_manager.name") in SCORED_BY_TRUTH
    columns = {key: column(batch, key) for key in ("raw_prompt", "extra_info", "tools_kwargs", *_TYPES)}
    for row in range(len(batch)):
        fields = {key: values[row] for key, values in columns.items()}
        name = f"row {row} of the batch (extra_info={show(fields['extra_info'])})"
        if fields["raw_prompt"] is not None:
            _check_messages(fields["raw_prompt"], name)
            _check_length(fields["raw_prompt"], name, tokenizer, limit if strict else None)
        _check_types(fields, name, truth)
        info, kwargs = fields["extra_info"] or {}, fields["tools_kwargs"] or {}
        _check_tools(info.get("tool_selection"), "extra_info.tool_selection", name, tools)
        _check_tools(list(kwargs), "tools_kwargs", name, tools)


def column(batch: TensorDict, key: str) -> list[Any]:
    """The values of a column, one per row; all None where there is none."""
    if key not in batch:
        return [None] * len(batch)
    values = batch.get(key)
    return [values.data] * len(batch) if isinstance(values, NonTensorData) else values.tolist()


def _check_messages(messages: Any, name: str) -> None:
    if isinstance(messages, str) or not isinstance(messages, Sequence | np.ndarray):
        raise ConfigError(
            f"The prompt of {name} is {show(messages)}: expected a list of messages such as {MESSAGE}. Write "
            "data.prompt_key's column as chat messages."
        )
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ConfigError(f"The prompt of {name} has the message {show(message)}: expected the form {MESSAGE}.")
        if message["role"] not in ROLES:
            raise ConfigError(
                f"The prompt of {name} has a message with role={show(message['role'])}: expected one of "
                f"{', '.join(ROLES)}.{did_you_mean(message['role'], ROLES)}"
            )
        if not isinstance(message.get("content"), str | Sequence | np.ndarray | None):
            raise ConfigError(
                f"The prompt of {name} has a message whose content is {show(message['content'])}: no text."
            )
    if not any(_says_something(message.get("content")) for message in messages):
        raise ConfigError(
            f"The prompt of {name} is empty: {show(list(messages))}. Remove the row, or fill data.prompt_key."
        )


def _says_something(content: Any) -> bool:
    return bool(content.strip()) if isinstance(content, str) else content is not None and len(content) > 0


def _check_length(
    messages: Sequence[Mapping[str, Any]], name: str, tokenizer: PreTrainedTokenizerBase, limit: int | None
) -> None:
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


MESSAGE = '{"role": "user", "content": "..."}'
_TYPES = {"data_source": str, "reward_model": Mapping, "agent_name": str}
"""Columns of verl's data -> what it reads there."""


def _check_types(fields: Mapping[str, Any], name: str, truth: bool) -> None:
    for key, kind in {**_TYPES, "extra_info": Mapping, "tools_kwargs": Mapping}.items():
        if fields[key] is not None and not isinstance(fields[key], kind):
            raise ConfigError(
                f"{key} of {name} is {show(fields[key])}: expected a {kind.__name__.lower()}, got "
                f"{type(fields[key]).__name__}. Correct the data."
            )
    scored = fields["reward_model"]
    if truth and scored is not None and "ground_truth" not in scored:
        raise ConfigError(
            f"reward_model of {name} is {show(dict(scored))}: expected an entry ground_truth, which the reward "
            "function gets. Add it to the data."
        )


def _check_tools(wanted: Any, field: str, name: str, tools: Sequence[str]) -> None:
    if isinstance(wanted, str) or not isinstance(wanted, Sequence | np.ndarray | None):
        raise ConfigError(f"{field} of {name} is {show(wanted)}: expected a list of names.")
    if unknown := sorted({str(tool) for tool in ([] if wanted is None else wanted)} - set(tools)):
        raise ConfigError(
            f"{field} of {name} names the tools {unknown}, but there are only {sorted(tools)}; correct the data, or "
            f"add them by {TOOL_SETTINGS}."
        )
