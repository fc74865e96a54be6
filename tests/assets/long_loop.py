"""The words loop with turns so long that new weights come while they are sampled; notes every generation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.assets.words_loop import TURNS, WordsLoop

__all__ = ["NOTES_ENV", "TURNS", "LongLoop"]

NOTES_ENV = "GENERATIONS_FILE"
"""Names the file of notes, a JSON line per answer of the engine."""


class LongLoop(WordsLoop):
    """Turns of 60 tokens, whatever is sampled."""

    turn_tokens = 60

    async def generate(self, context: list[int], sampling_params: dict[str, Any]) -> Any:
        """The engine's answer, noted."""
        output = await super().generate(context, {**sampling_params, "ignore_eos": True})
        note = {
            "prompt_ids": context,
            "token_ids": output.token_ids,
            "log_probs": output.log_probs,
            "versions": [output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]],
        }
        with Path(os.environ[NOTES_ENV]).open("a") as notes:
            notes.write(json.dumps(note) + "\n")
        return output
