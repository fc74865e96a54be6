"""A user's own agent loop: three turns of at most six tokens, with an observation in between."""

from __future__ import annotations

from typing import Any

from verl.experimental.agent_loop import AgentLoopBase, AgentLoopOutput
from verl.workers.rollout.replica import TokenOutput

TURNS = 3
TURN_TOKENS = 6


class WordsLoop(AgentLoopBase):
    """Asks the model for three lines of words; the environment answers with a word made from the line's length."""

    turn_tokens = TURN_TOKENS

    async def observe(self, sampled: list[int]) -> list[int]:
        """Tokens that the environment answers a turn with."""
        return self.tokenizer.encode(f"tool w{len(sampled)}", add_special_tokens=False)

    async def generate(self, context: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        """The engine's answer to a context."""
        return await self.server_manager.generate(
            request_id="words", prompt_ids=context, sampling_params={**sampling_params, "max_tokens": self.turn_tokens}
        )

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        prompt_ids = await self.ct_build_initial_tokens(list(kwargs["raw_prompt"]))
        context, mask, log_probs = list(prompt_ids), [], []
        for turn in range(TURNS):
            output = await self.generate(list(context), sampling_params)
            context += output.token_ids
            mask += [1] * len(output.token_ids)
            log_probs += output.log_probs
            if turn < TURNS - 1:
                seen = await self.observe(output.token_ids)
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
            extra_fields={"turn_scores": []},
        )
