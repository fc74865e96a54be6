"""The words loop's reward, which waits for ever once a folder's ``hang`` file is there."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tests.assets import words_reward


async def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    while Path(os.environ["ODD_HANG"]).exists():
        await asyncio.sleep(0.2)
    return words_reward.compute_score(data_source, solution_str, ground_truth)
