"""The paper's tag style: ``<think>``, ``<search>`` answered by ``<result>`` in the same message, then ``<answer>``.

verl's tool agent does the work. Three things differ: a call is a tag named after the tool around its one argument,
sampling stops at the end of that tag, and the answer is appended as raw text, not as a new chat message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from verl.experimental.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.experimental.agent_loop.tool_parser import FunctionCall, ToolParser
from verl.tools.schemas import OpenAIFunctionToolSchema
from verl.utils.tokenizer.continuous_token import MergeResult

FORMAT = "atpo_tags"
"""Name of the parser: ``actor_rollout_ref.rollout.multi_turn.format``."""


@ToolParser.register(FORMAT)
class TagToolParser(ToolParser):
    """Parser of ``<search>query</search>`` as the call ``search(query="query")``, for every tool with one argument."""

    async def extract_tool_calls(
        self, responses_ids: list[int], tools: Sequence[OpenAIFunctionToolSchema] | None = None
    ) -> tuple[str, list[FunctionCall]]:
        """Parse the calls in a turn, in order.

        Args:
            responses_ids: sampled tokens of the turn.
            tools: schemas of the tools on offer.

        Returns:
            The turn's text, tags included, and its calls.
        """
        text = self.tokenizer.decode(responses_ids, skip_special_tokens=True)
        arguments = {schema.function.name: tag_argument(schema) for schema in tools or ()}
        if not arguments:
            return text, []
        tag = re.compile(rf"<({'|'.join(map(re.escape, arguments))})>(.*?)</\1>", re.DOTALL)
        calls = [
            FunctionCall(name=name, arguments=json.dumps({arguments[name]: content.strip()}, ensure_ascii=False))
            for name, content in tag.findall(text)
        ]
        return text, calls


def tag_argument(schema: OpenAIFunctionToolSchema) -> str:
    """Return the name of the argument that a tag carries.

    Raises:
        ValueError: the tool requires no argument or several, which one tag cannot carry.
    """
    parameters = schema.function.parameters
    required = list(parameters.required) or list(parameters.properties)
    if len(required) != 1:
        raise ValueError(
            f"Tool {schema.function.name!r} requires the arguments {required}, but a tag carries exactly one: use "
            "function calling (actor_rollout_ref.rollout.multi_turn.format=hermes) for this tool."
        )
    return required[0]


class TagAgentLoop(ToolAgentLoop):
    """verl's tool agent in the paper's tag style; arguments are those of ``ToolAgentLoop``.

    Raises:
        ValueError: another parser than this style's, or a tool that a tag cannot call.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.tool_parser_name != FORMAT:
            raise ValueError(
                f"actor_rollout_ref.rollout.multi_turn.format={self.tool_parser_name} cannot work with tag_agent; set "
                f"it to {FORMAT}, or use +agent=search_tags, which sets both."
            )
        for tool in self.tools.values():
            tag_argument(tool.tool_schema)

    async def run(self, sampling_params: dict[str, Any], *args: Any, **kwargs: Any) -> AgentLoopOutput:
        """Run one trajectory; sampling stops after each call."""
        stops = [f"</{name}>" for name in self.tools]
        keep = "no_stop_trim" if self.rollout_config.name == "sglang" else "include_stop_str_in_output"
        return await super().run({**sampling_params, "stop": stops, keep: True}, *args, **kwargs)

    async def ct_build_initial_tokens(
        self, messages: list[dict], tools: Any = None, *args: Any, **kwargs: Any
    ) -> list[int]:
        """Tokenize the prompt without the chat template's list of tools: the prompt itself explains the tags."""
        tokens: list[int] = await super().ct_build_initial_tokens(messages, [], *args, **kwargs)
        return tokens

    async def ct_merge_context_msg(
        self,
        previous_messages: list[dict],
        updated_messages: list[dict],
        runtime_token_ids: list[int],
        response_mask: list[int],
        response_logprobs: list[float] | None = None,
        tools: list[dict] | None = None,
    ) -> tuple[MergeResult, list[int], list[float] | None]:
        """Append the tools' answers as raw ``<result>`` text, instead of chat messages."""
        answers = [message["content"] for message in updated_messages[len(previous_messages) :]]
        text = "".join(f"\n<result>\n{answer}\n</result>\n" for answer in answers)
        tokenizer: Any = self.tokenizer
        ids = tokenizer.encode(text, add_special_tokens=False)
        merged = MergeResult(token_ids=[*runtime_token_ids, *ids], appended_token_count=len(ids))
        log_probs = response_logprobs and [*response_logprobs, *[0.0] * len(ids)]
        return merged, [*response_mask, *[0] * len(ids)], log_probs
