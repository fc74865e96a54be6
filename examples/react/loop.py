"""An agent loop in the ReAct style: `Thought`, then `Action: tool {arguments}`, answered by `Observation: ...`.

The chat template is nowhere written down: verl's own continuation (`ct_merge_assistant_token`, `ct_merge_context_msg`)
puts turns and observations into the context, for any model. Tools are called through a `Toolbox`, which answers
whatever goes wrong in words that the model reads.
"""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop import AgentLoopBase, AgentLoopOutput

from verl_atpo.tools import Toolbox

ACTION = re.compile(r"Action:\s*(\w+)\s*(\{.*\})", re.DOTALL)


class ReActLoop(AgentLoopBase):
    """Arguments are those of verl's agent loops; `tools` are those of `multi_turn.tool_config_path`."""

    def __init__(self, *args: Any, tools: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tools = tools
        self.most_turns = self.rollout_config.multi_turn.max_assistant_turns or 8

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """Run one trajectory until a tool ends it, a turn has no action, or turns or tokens run out."""
        toolbox, request, room = Toolbox(self, self.tools, row), uuid4().hex, self.rollout_config.response_length
        messages = list(row["raw_prompt"])
        context = await self.ct_build_initial_tokens(messages)
        mask: list[int] = []
        log_probs: list[float] | None = []
        fields: dict[str, Any] = {}
        turns = 0
        while True:
            output = await self.server_manager.generate(request, prompt_ids=context, sampling_params=sampling_params)
            turns += 1
            merged, mask, log_probs = await self.ct_merge_assistant_token(
                context, output.token_ids, mask, log_probs, assistant_logprobs=output.log_probs
            )
            context = merged.token_ids
            fields = {**output.extra_fields, **{key: fields[key] for key in ("min_global_steps",) if key in fields}}
            said = self.tokenizer.decode(output.token_ids, skip_special_tokens=True)
            asked = ACTION.search(said)
            if asked is None or turns == self.most_turns or len(mask) >= room:
                break
            answer = await toolbox.call(asked[1], asked[2])
            before = [*messages, {"role": "assistant", "content": said}]
            messages = [*before, {"role": "user", "content": f"Observation: {answer.text}"}]
            merged, longer, more = await self.ct_merge_context_msg(before, messages, context, mask, log_probs)
            if len(longer) >= room:
                break
            context, mask, log_probs = merged.token_ids, longer, more
            if toolbox.ended:
                break
        start = len(context) - len(mask)
        return AgentLoopOutput(
            prompt_ids=context[:start],
            response_ids=context[start:][:room],
            response_mask=mask[:room],
            response_logprobs=log_probs[:room] if log_probs else None,
            num_turns=2 * turns,
            metrics={},
            extra_fields={**fields, "turn_scores": [], "tool_rewards": toolbox.rewards},
        )
