"""The words loop with a tool: the environment answers with what the ``search`` tool finds for the sampled words."""

from __future__ import annotations

from typing import Any

from tests.assets.words_loop import TURNS, WordsLoop

__all__ = ["TURNS", "SearchLoop"]

OBSERVATION_TOKENS = 6


class SearchLoop(WordsLoop):
    """Searches after every turn but the last."""

    def __init__(self, *args: Any, tools: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tools = {tool.name: tool for tool in tools.tools}

    async def observe(self, sampled: list[int]) -> list[int]:
        """The beginning of what was found."""
        tool = self.tools["search"]
        query = self.tokenizer.decode(sampled, skip_special_tokens=True)
        instance, _ = await tool.create()
        try:
            response, _, _ = await tool.execute(instance, {"query": query or "nothing"})
        finally:
            await tool.release(instance)
        return self.tokenizer.encode(f"tool {response.text}", add_special_tokens=False)[:OBSERVATION_TOKENS]
