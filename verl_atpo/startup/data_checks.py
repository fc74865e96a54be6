"""Checks of data rows: the error for a row that cannot work names the row, the value found and the remedy."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from tensordict import NonTensorData, TensorDict

from verl_atpo.config import ConfigError
from verl_atpo.failure import brief
from verl_atpo.settings import did_you_mean, show
from verl_atpo.startup.verl_config import DEFAULT_LOOP, REWARD_MANAGER
from verl_atpo.tools.row import plain_message

TOOL_SETTINGS = "actor_rollout_ref.rollout.multi_turn.tool_config_path or function_tool_path"
LIMIT, TEMPLATE_ARGUMENTS = "data.max_prompt_length", "data.apply_chat_template_kwargs"
ROLES = ("system", "user", "assistant", "tool", "developer")
CREATE = "create_kwargs"
"""Key of a tool's arguments in a row's ``tools_kwargs``."""
MEDIA = ("image", "image_url", "video", "audio")
SCORED_BY_TRUTH = ("naive", "dapo", "gdpo", "limited", "rate_limited")
"""verl's reward managers that hand ``reward_model.ground_truth`` to the reward function."""
WITH_SCHEMAS = "tool_agent"
"""verl's agent loop that writes the schemas of the tools into the prompt."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """Settings, tokenizer and tools with which a data row is read.

    Attributes:
        limit: maximum number of tokens of a prompt; None for no limit.
        strict: whether verl refuses longer prompts; otherwise it cuts them.
        by_truth: whether the reward function gets a gold answer.
        loop: the agent loop of rows that name none.
        tokenizer: the model's.
        arguments: further arguments of its chat template.
        tools: names of the tools.
        schemas: the tools as the chat template gets them; empty if they are not counted.
        multimodal: whether the model reads images, video or audio; None if unknown.
    """

    limit: int | None
    strict: bool
    by_truth: bool
    loop: str | None
    tokenizer: Any
    arguments: Mapping[str, Any]
    tools: Sequence[str]
    schemas: Sequence[Mapping[str, Any]] = ()
    multimodal: bool | None = None

    @classmethod
    def of(
        cls,
        config: DictConfig,
        tokenizer: Any,
        tools: Sequence[str],
        schemas: Sequence[Mapping[str, Any]] = (),
        multimodal: bool | None = None,
    ) -> Reader:
        """Make a reader with the settings of verl's whole config."""
        arguments = OmegaConf.select(config, TEMPLATE_ARGUMENTS)
        return cls(
            limit=OmegaConf.select(config, LIMIT),
            strict=OmegaConf.select(config, "data.truncation") == "error",
            by_truth=OmegaConf.select(config, REWARD_MANAGER) in SCORED_BY_TRUTH,
            loop=OmegaConf.select(config, DEFAULT_LOOP),
            tokenizer=tokenizer,
            arguments=OmegaConf.to_container(arguments, resolve=True) if arguments else {},  # type: ignore[arg-type]
            tools=tools,
            schemas=schemas,
            multimodal=multimodal,
        )

    def check(self, fields: Mapping[str, Any], name: str) -> None:
        """Refuse a row that cannot work.

        Args:
            fields: ``raw_prompt`` and verl's other columns of the row; None where one is missing.
            name: name of the row, for the message.

        Raises:
            ConfigError: a prompt that is no list of messages, is empty, cannot be rendered, loses its text, or is
                longer than verl's limit; a column of another type than verl reads; a tool that does not exist.
        """
        _check_types(fields, name, self.by_truth)
        if fields.get("raw_prompt") is not None:
            _check_messages(fields["raw_prompt"], name)
            self._check_rendered(fields, name)
        info, kwargs = fields.get("extra_info") or {}, fields.get("tools_kwargs") or {}
        _check_tools(info.get("tool_selection"), "extra_info.tool_selection", name, self.tools)
        _check_tools([key for key, value in kwargs.items() if value is not None], "tools_kwargs", name, self.tools)
        for tool, entry in kwargs.items():
            _check_arguments(tool, entry, name)

    def _check_rendered(self, fields: Mapping[str, Any], name: str) -> None:
        """Render the prompt as the agent loop does, and check its text and its length."""
        messages = [plain_message(message) for message in fields["raw_prompt"]]
        media = sorted({kind for message in messages for kind in _media(message["content"])})
        if media and self.multimodal is False:
            raise ConfigError(
                f"The prompt of {name} has parts of type {', '.join(media)}, but the model reads text only: it has no "
                "processor. Use a model that reads them, or remove the parts."
            )
        if media or self.multimodal:
            return  # rendered by the processor, with the media
        schemas = self._schemas(fields)
        _check_nothing_is_lost(messages, name, self._render(messages, name, schemas, tokenize=False))
        ids = self._render(messages, name, schemas, tokenize=True)
        if self.limit is not None and len(ids) > self.limit:
            self._refuse_length(messages, name, len(ids), len(schemas))

    def _schemas(self, fields: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Return the schemas that the row's agent loop shows to the model."""
        if (fields.get("agent_name") or self.loop) != WITH_SCHEMAS:
            return []
        selection = (fields.get("extra_info") or {}).get("tool_selection")
        if selection is None or not len(selection):
            return list(self.schemas)
        return [schema for schema in self.schemas if schema["function"]["name"] in selection]

    def _render(
        self, messages: list[dict[str, Any]], name: str, schemas: list[Mapping[str, Any]], tokenize: bool
    ) -> Any:
        given = {"tools": schemas} if schemas else {}
        try:
            return self.tokenizer.apply_chat_template(
                messages,
                **{**self.arguments, **given},
                add_generation_prompt=True,
                tokenize=tokenize,
                return_dict=False,
            )
        except Exception as error:  # a template may raise anything
            raise ConfigError(
                f"The prompt of {name} cannot be rendered by the model's chat template: {brief(error)}. Write the "
                f"messages as the template wants them, or correct {TEMPLATE_ARGUMENTS}."
            ) from error

    def _refuse_length(self, messages: list[dict[str, Any]], name: str, length: int, schemas: int) -> None:
        if self.strict:
            counted = f" with the schemas of {schemas} tools" if schemas else ""
            raise ConfigError(
                f"The prompt of {name} has {length} tokens{counted}, more than {LIMIT}={self.limit}, and "
                "data.truncation=error. Raise the limit, set data.filter_overlong_prompts=True, or another truncation."
            )
        if schemas and len(self._render(messages, name, [], tokenize=True)) <= (self.limit or 0):
            raise ConfigError(
                f"The prompt of {name} has {length} tokens with the schemas of {schemas} tools, more than "
                f"{LIMIT}={self.limit}: they would be cut in two. Raise the limit, or shorten the tools' descriptions."
            )


def check_rows(
    batch: TensorDict,
    config: DictConfig,
    tokenizer: Any,
    tools: Sequence[str],
    schemas: Sequence[Mapping[str, Any]] = (),
    multimodal: bool | None = None,
) -> None:
    """Refuse rows that cannot work.

    Args:
        batch: verl's prompts.
        config: verl's whole config.
        tokenizer: the model's.
        tools: names of the tools on offer.
        schemas: the tools as the chat template gets them.
        multimodal: whether the model reads images, video or audio; None if unknown.

    Raises:
        ConfigError: as of :meth:`Reader.check`.
    """
    reader = Reader.of(config, tokenizer, tools, schemas, multimodal)
    columns = {key: column(batch, key) for key in ("raw_prompt", "extra_info", "tools_kwargs", *_TYPES)}
    for row in range(len(batch)):
        fields = {key: values[row] for key, values in columns.items()}
        reader.check(fields, f"row {row} of the batch (extra_info={show(fields['extra_info'])})")


def _media(content: Any) -> Iterator[str]:
    for part in content if isinstance(content, list) else ():
        if isinstance(part, Mapping) and part.get("type") in MEDIA:
            yield str(part["type"])


def _texts(content: Any) -> Iterator[str]:
    """Yield the texts of a message's content."""
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str):
            yield text


def _check_nothing_is_lost(messages: Sequence[Mapping[str, Any]], name: str, rendered: Any) -> None:
    """Refuse content that a chat template leaves out, or parts that it writes as a Python list."""
    if not isinstance(rendered, str):
        return
    asked = next((message["content"] for message in reversed(messages) if message["role"] == "user"), None)
    if isinstance(asked, str) and asked.strip() not in rendered:
        raise ConfigError(
            f"The prompt of {name} loses its last message of the user, {show(asked)}: the model's chat template does "
            f"not write it. Use the template that the model was trained with, or correct {TEMPLATE_ARGUMENTS}."
        )
    for message in messages:
        if not isinstance(message["content"], list):
            continue
        lost = [text for text in _texts(message["content"]) if text.strip() not in rendered]
        if lost or str(message["content"]) in rendered:
            raise ConfigError(
                f"The prompt of {name} has a message whose content is a list of parts, which the model's chat template "
                f"{'leaves out' if lost else 'writes as a Python list'}: {show(message['content'])}. Write the content "
                "as one text."
            )


def column(batch: TensorDict, key: str) -> list[Any]:
    """Return the values of a column, one per row; all None if there is no such column."""
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
        content = message.get("content")
        if isinstance(content, bytes) or not isinstance(content, str | Sequence | np.ndarray | None):
            raise ConfigError(
                f"The prompt of {name} has a message whose content is {show(content)}: expected a text, or a list of "
                "parts."
            )
        _check_characters(message, name)
    if not any(_has_text(message.get("content")) for message in messages):
        raise ConfigError(
            f"The prompt of {name} is empty: {show(list(messages))}. Remove the row, or fill data.prompt_key."
        )


def _has_text(content: Any) -> bool:
    return bool(content.strip()) if isinstance(content, str) else content is not None and len(content) > 0


def _check_characters(message: Mapping[str, Any], name: str) -> None:
    """Refuse half a surrogate pair, which no tokenizer accepts."""
    for text in _texts(plain_message(message)["content"]):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"The prompt of {name} has half a surrogate pair, {text[error.start]!a}, as character {error.start} of "
                f"{show(text[max(0, error.start - 20) : error.start + 20])}: no tokenizer takes it. Repair the text, "
                "for instance by text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')."
            ) from None


MESSAGE = '{"role": "user", "content": "..."}'
_TYPES = {"data_source": str, "reward_model": Mapping, "agent_name": str}
"""Columns of verl's data -> type that verl reads there."""


def _check_types(fields: Mapping[str, Any], name: str, truth: bool) -> None:
    for key, kind in {**_TYPES, "extra_info": Mapping, "tools_kwargs": Mapping}.items():
        if fields.get(key) is not None and not isinstance(fields[key], kind):
            raise ConfigError(
                f"{key} of {name} is {show(fields[key])}: expected a {kind.__name__.lower()}, got "
                f"{type(fields[key]).__name__}. Correct the data."
            )
    scored = fields.get("reward_model")
    if truth and scored is not None and "ground_truth" not in scored:
        raise ConfigError(
            f"reward_model of {name} is {show(dict(scored))}: expected an entry ground_truth, which the reward "
            "function gets. Add it to the data."
        )


def _check_arguments(tool: str, entry: Any, name: str) -> None:
    """Refuse arguments of a tool that would be ignored, so that its state opened with defaults."""
    found = entry.get(CREATE) if isinstance(entry, Mapping) else None
    if not isinstance(entry, Mapping | None) or not isinstance(found, Mapping | None):
        raise ConfigError(
            f"tools_kwargs of {name} has {show(entry)} for the tool {tool!r}: expected a mapping "
            f'{{"{CREATE}": {{...}}}}. Correct the data.'
        )
    wrong = [key for key, value in (entry or {}).items() if value is not None and key != CREATE]
    if found is None and (typo := difflib.get_close_matches(CREATE, wrong, n=1, cutoff=0.8)):
        raise ConfigError(f"tools_kwargs of {name} has {typo[0]!r} for the tool {tool!r}. Did you mean {CREATE}?")


def _check_tools(wanted: Any, field: str, name: str, tools: Sequence[str]) -> None:
    if isinstance(wanted, str) or not isinstance(wanted, Sequence | np.ndarray | None):
        raise ConfigError(f"{field} of {name} is {show(wanted)}: expected a list of names.")
    if unknown := sorted({str(tool) for tool in ([] if wanted is None else wanted)} - set(tools)):
        raise ConfigError(
            f"{field} of {name} names the tools {unknown}, but there are only {sorted(tools)}; correct the data, or "
            f"add them by {TOOL_SETTINGS}."
        )
