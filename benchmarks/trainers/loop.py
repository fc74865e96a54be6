"""An agent loop with a slow, heavy-tailed tool on verl's real stack; it notes each generation of the engine."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop import AgentLoopBase, AgentLoopOutput

from benchmarks.rollout.agent import heavy_tailed
from benchmarks.trainers.notes import GENERATION, note

TURNS = 3
TOOL_S = 0.5
LATENCY = heavy_tailed(TOOL_S)
LENGTHS = (12, 36)
OBSERVATION = list(range(100, 116))
_random = random.Random(os.environ.get("TRAINERS_SEED", "0"))


class SlowToolLoop(AgentLoopBase):
    """Three turns of 12 to 36 tokens, whatever is sampled; between them a tool that takes its time."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        prompt_ids = await self.ct_build_initial_tokens(list(kwargs["raw_prompt"]))
        context, mask, log_probs = list(prompt_ids), [], []
        request_id, answers = uuid4().hex, []
        for turn in range(TURNS):
            began = time.time()
            length = {"max_tokens": _random.randint(*LENGTHS), "ignore_eos": True}
            output = await self.server_manager.generate(
                request_id=request_id, prompt_ids=list(context), sampling_params={**sampling_params, **length}
            )
            replayed = getattr(self.server_manager, "replaying", False)  # of a tree: answered without the engine
            if not replayed:
                note(GENERATION, began)
            answers.append(output.extra_fields)
            context += output.token_ids
            mask += [1] * len(output.token_ids)
            log_probs += output.log_probs
            if turn < TURNS - 1:
                if not replayed:
                    await asyncio.sleep(LATENCY.draw(_random))
                context += OBSERVATION
                mask += [0] * len(OBSERVATION)
                log_probs += [0.0] * len(OBSERVATION)
        return AgentLoopOutput(
            prompt_ids=prompt_ids,
            response_ids=context[len(prompt_ids) :],
            response_mask=mask,
            response_logprobs=log_probs,
            num_turns=2 * TURNS,
            metrics={},
            extra_fields={
                "turn_scores": [],
                "min_global_steps": answers[0].get("min_global_steps"),
                "max_global_steps": answers[-1].get("max_global_steps"),
            },
        )


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **_: Any) -> float:
    """A reward that differs between rows: the share of the first half of the alphabet among letters."""
    letters = [letter for letter in solution_str.lower() if letter.isalpha()]
    return sum(letter < "n" for letter in letters) / max(1, len(letters))
