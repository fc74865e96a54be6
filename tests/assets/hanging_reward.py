"""The words loop's reward, which waits for ever for prompts whose right answer is ``hang``."""

from __future__ import annotations

import asyncio

from tests.assets import words_reward


async def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    while ground_truth == "hang":
        await asyncio.sleep(0.2)
    return words_reward.compute_score(data_source, solution_str, ground_truth)
