"""Rules about the model: its folder, tokenizer and chat template, and the lengths that it accepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verl_atpo.startup.materials import MODEL, model_config, model_folder, tokenizer
from verl_atpo.startup.rules.rule import Rule, Run, Stage
from verl_atpo.startup.verl_config import ROLLOUT

SUBJECT = "model"
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
PROMPT, RESPONSE, LONGEST = "data.max_prompt_length", "data.max_response_length", f"{ROLLOUT}.max_model_len"


def _config(run: Run) -> None:
    run.once(model_config)


def _tokenizer(run: Run) -> None:
    run.once(tokenizer)


def _weights(run: Run) -> str | None:
    folder = run.once(model_folder)
    if folder is None or any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
        return None
    return "the folder has a config but no weights (*.safetensors, *.bin). Save the model there, or set another folder"


def positions(config: Mapping[str, Any]) -> int | None:
    """Return the maximum number of tokens in a model's config; None if the config names none."""
    text = config.get("text_config")
    own = text if isinstance(text, Mapping) else config
    found = own.get("max_position_embeddings") or config.get("max_position_embeddings")
    scaling = own.get("rope_scaling") or own.get("rope_parameters") or {}
    stretched = isinstance(scaling, Mapping) and isinstance(scaling.get("factor"), int | float)
    return None if not isinstance(found, int) or stretched else found


def _engine_length(run: Run) -> str | None:
    longest, most = run.number(LONGEST, integer=True), positions(run.once(model_config))
    if longest is None or most is None or longest <= most:
        return None
    return f"the model takes {most} tokens (max_position_embeddings); set at most {most}"


def _context(run: Run) -> tuple[str, int] | None:
    """Return the setting that bounds prompt and response together, and its tokens; None if no bound is known."""
    limits = {
        LONGEST: run.number(LONGEST, integer=True),
        "the model's max_position_embeddings": positions(run.once(model_config)),
    }
    known = {name: limit for name, limit in limits.items() if limit is not None}
    return min(known.items(), key=lambda item: item[1]) if known else None


def _response_fits(run: Run) -> str | None:
    response, context = run.number(RESPONSE, integer=True), run.once(_context)
    if context is None or response is None or response < context[1]:
        return None
    return f"{context[0]} is {context[1]}, and a prompt needs room as well; set less than {context[1]}"


def _row_fits(run: Run) -> str | None:
    prompt, response = (run.number(key, integer=True) for key in (PROMPT, RESPONSE))
    context = run.once(_context)
    if context is None or not prompt or not response or response >= context[1] or prompt + response <= context[1]:
        return None
    return (
        f"with {PROMPT}={prompt} it makes {prompt + response} tokens, and {context[0]} is {context[1]}: longer "
        f"trajectories are cut. Set the two to at most {context[1]} together"
    )


RULES = (
    Rule(SUBJECT, MODEL, _config, stage=Stage.REHEARSAL),
    Rule(SUBJECT, MODEL, _weights, stage=Stage.REHEARSAL),
    Rule(SUBJECT, MODEL, _tokenizer, stage=Stage.REHEARSAL),
    Rule(SUBJECT, LONGEST, _engine_length, stage=Stage.REHEARSAL),
    Rule(SUBJECT, RESPONSE, _response_fits, stage=Stage.REHEARSAL),
    Rule(SUBJECT, RESPONSE, _row_fits, stage=Stage.REHEARSAL, warns=True),
)
