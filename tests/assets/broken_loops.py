"""Agent loops with one bug each, and one that meets outages: the words loop, spoilt."""

from __future__ import annotations

import asyncio
from typing import Any

from verl.experimental.agent_loop import AgentLoopOutput

from tests.assets.words_loop import WordsLoop


class MissingKey(WordsLoop):
    """Looks up what is not there."""

    async def observe(self, sampled: list[int]) -> list[int]:
        return {}["weather"]


class TwoOutputs(WordsLoop):
    """Returns two outputs for one trajectory, as loops with context management do."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> list[AgentLoopOutput]:  # type: ignore[override]
        return [await super().run(sampling_params, **kwargs), await super().run(sampling_params, **kwargs)]


class Forgetful(WordsLoop):
    """Rewrites its context: an answer does not hold what was sampled."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        output = await super().run(sampling_params, **kwargs)
        output.response_ids = output.response_ids[::-1]
        return output


class Overlapping(WordsLoop):
    """Generates twice at the same time, and swallows what comes of it."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        prompt = await self.ct_build_initial_tokens(list(kwargs["raw_prompt"]))
        asked = [
            self.server_manager.generate(request_id="words", prompt_ids=prompt, sampling_params=sampling_params)
            for _ in range(2)
        ]
        await asyncio.gather(*asked, return_exceptions=True)
        return await super().run(sampling_params, **kwargs)


class Unplugged(WordsLoop):
    """Asks a service that is not there, without verl's tools."""

    async def observe(self, sampled: list[int]) -> list[int]:
        raise ConnectionError("no route to the weather service")
