"""Token ids of contexts, made from messages by the chat template and verl's merging of new messages."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from verl_atpo.gateway.conversation import Call, Request
from verl_atpo.gateway.errors import ApiError
from verl_atpo.gateway.messages import Message
from verl_atpo.tools.text import without_tokens

logger = logging.getLogger(__name__)


class ContextBuilder:
    """Makes the context of a request.

    Args:
        builder: verl's ``ContinuousTokenBuilder`` of the model's family.
        tokenizer: the model's.
    """

    def __init__(self, builder: Any, tokenizer: Any) -> None:
        self._builder = builder
        self._special = tuple(tokenizer.all_special_tokens)
        added: Iterable[str] = getattr(tokenizer, "get_added_vocab", dict)()
        self._control = tuple({*self._special, *added})

    def build(self, request: Request, tools: list[dict[str, Any]]) -> tuple[list[int], Call | None]:
        """Make the context, and find the call that it continues token by token.

        A continued call's ids are unchanged; only the new messages go through the template. Where the model's
        family cannot append them to that call, the whole context is made by the template and continues nothing.

        Raises:
            ApiError: the model's chat template refuses the messages.
        """
        messages = [self._harmless(message).for_template() for message in request.messages]
        after = request.after
        if after is not None:
            earlier = after.tokens
            try:
                merged = self._builder.merge_context_tokens(
                    messages[: request.known], messages, earlier, tools=tools or None
                )
            except ValueError as error:
                logger.warning("New messages cannot be appended, so a new row starts: %s", error)
            else:
                appended = list(merged.token_ids)
                if appended[: len(earlier)] == earlier:
                    return appended, after
                return appended, None
        try:
            return list(self._builder.build_initial_tokens(messages, tools=tools or None)), None
        except Exception as error:  # whatever a template raises
            raise ApiError(
                400, f"messages: the model's chat template refuses them: {error}", param="messages"
            ) from error

    def _harmless(self, message: Message) -> Message:
        """Neutralise control tokens in a message's text that the policy did not write."""
        if message.role == "assistant":
            return message
        tokens: Sequence[str] = self._special if message.role == "system" else self._control
        text = without_tokens(message.content, tokens)
        return message if text == message.content else Message(message.role, text, (), message.call_id, message.name)
