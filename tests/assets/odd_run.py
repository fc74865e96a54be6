"""An agent loop with one tool, whose errors the model reads."""

from __future__ import annotations

from typing import Any

from tests.assets.words_loop import WordsLoop


class OddLoop(WordsLoop):
    """Asks the tool between turns, as verl's tool agent does: an error of it is read by the model."""

    def __init__(self, *args: Any, tools: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        (self.tool,) = tools.tools

    async def observe(self, sampled: list[int]) -> list[int]:
        try:
            text = await self.tool.call({"at": sampled[0]})
        except Exception:
            text = "w1"
        return self.tokenizer.encode(f"tool {text}", add_special_tokens=False)
