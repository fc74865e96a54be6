"""A user's own agent loop that searches after every turn, with the words it sampled."""

from __future__ import annotations

from typing import Any

from verl.experimental.agent_loop import AgentLoopBase, AgentLoopOutput

TURNS = 3
TURN_TOKENS = 6
OBSERVATION_TOKENS = 6


class SearchLoop(AgentLoopBase):
    """Asks the model for three lines of words; the environment answers with what the ``search`` tool finds for them."""

    def __init__(self, *args: Any, tools: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tools = {tool.name: tool for tool in tools.tools}

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        prompt_ids = await self.ct_build_initial_tokens(list(kwargs["raw_prompt"]))
        context, mask, log_probs = list(prompt_ids), [], []
        for turn in range(TURNS):
            output = await self.server_manager.generate(
                request_id="words", prompt_ids=context, sampling_params={**sampling_params, "max_tokens": TURN_TOKENS}
            )
            context += output.token_ids
            mask += [1] * len(output.token_ids)
            log_probs += output.log_probs
            if turn < TURNS - 1:
                seen = await self._search(self.tokenizer.decode(output.token_ids, skip_special_tokens=True))
                context += seen
                mask += [0] * len(seen)
                log_probs += [0.0] * len(seen)
        return AgentLoopOutput(
            prompt_ids=prompt_ids,
            response_ids=context[len(prompt_ids) :],
            response_mask=mask,
            response_logprobs=log_probs,
            num_turns=2 * TURNS,
            metrics={},
            extra_fields={"min_global_steps": 0, "max_global_steps": 0},
        )

    async def _search(self, query: str) -> list[int]:
        tool = self.tools["search"]
        instance, _ = await tool.create()
        try:
            response, _, _ = await tool.execute(instance, {"query": query or "nothing"})
        finally:
            await tool.release(instance)
        return self.tokenizer.encode(f"tool {response.text}", add_special_tokens=False)[:OBSERVATION_TOKENS]
