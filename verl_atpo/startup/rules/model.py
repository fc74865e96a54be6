"""Rules about the model: its folder, tokenizer and chat template, and the lengths that it accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from verl_atpo.settings import did_you_mean, show
from verl_atpo.startup.materials import MODEL, model_config, model_folder, tokenizer, train_rows
from verl_atpo.startup.rules.rule import Rule, Run, Stage
from verl_atpo.startup.verl_config import ROLLOUT

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
NO_TOKENS = ("ForSequenceClassification", "ForTokenClassification", "ForMaskedLM", "ForQuestionAnswering", "BertModel")
"""Ends of the names of architectures that do not predict the next token."""
FEW = 8
"""Rows of each file whose token ids are compared with the model's vocabulary."""
HALF_PAIR = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair, which no tokenizer accepts."""
PROMPT, RESPONSE, LONGEST = "data.max_prompt_length", "data.max_response_length", f"{ROLLOUT}.max_model_len"


def _config(run: Run) -> None:
    run.once(model_config)


def _tokenizer(run: Run) -> None:
    run.once(tokenizer)


def _weights(run: Run) -> str | None:
    folder = run.once(model_folder)
    if folder is None:
        return None
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
        return (
            "the folder has a config but no weights (*.safetensors, *.bin). Save the model there, or set another folder"
        )
    missing = sorted(name for name in _shards(folder) if not (folder / name).is_file())
    if missing:
        return f"the folder lacks the weights {missing[0]}, which its index names. Download the model again"
    broken = next((file.name for file in sorted(folder.glob("*.safetensors")) if not _complete(file)), None)
    return broken and f"its {broken} is cut off, or a placeholder of Git LFS. Download the model again (git lfs pull)"


def _shards(folder: Path) -> set[str]:
    """Return the names of the files that hold the weights, as their index lists them."""
    try:
        return set(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return set()


def _complete(file: Path) -> bool:
    """Return whether a safetensors file has all the bytes that its header announces."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > file.stat().st_size:
            return False
        try:
            header = json.loads(opened.read(length))
        except ValueError:
            return False
    ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
    return file.stat().st_size >= 8 + length + max(ends, default=0)


def _architecture(run: Run) -> str | None:
    """Refuse a model that transformers does not know, or that has no head for tokens."""
    config = run.once(model_config)
    kind, heads = config.get("model_type"), [str(each) for each in config.get("architectures") or ()]
    if not kind or config.get("auto_map"):
        return None
    from transformers import CONFIG_MAPPING, __version__

    if kind not in CONFIG_MAPPING:
        names = did_you_mean(kind, list(CONFIG_MAPPING.keys()))
        return f"transformers {__version__} knows no model_type={kind!r}; install a version that does.{names}"
    if heads and all(each.endswith(NO_TOKENS) for each in heads):
        return f"its architecture {heads[0]} does not predict tokens; use a causal language model"
    return None


def _ids(run: Run) -> str | None:
    """Refuse a tokenizer whose ids are beyond the model's embedding."""
    config, made = run.once(model_config), run.once(tokenizer)
    text = config.get("text_config")
    size = (text if isinstance(text, Mapping) else config).get("vocab_size")
    if made is None or not isinstance(size, int):
        return None
    texts = list(_texts(run))
    read = {id_ for text in texts for id_ in made.encode(text, add_special_tokens=False)}
    if texts and read <= {made.unk_token_id}:
        return f"its tokenizer knows nothing of {show(texts[0])}. Save the tokenizer in the model's folder"
    used = read | {id_ for id_ in (made.eos_token_id, made.pad_token_id, made.bos_token_id) if isinstance(id_, int)}
    if not used or max(used) < size:
        return None
    return (
        f"its tokenizer writes the id {max(used)} ({made.convert_ids_to_tokens(max(used))!r}), but its config has "
        f"vocab_size={size}. Use the tokenizer that the model was trained with, or resize the embedding"
    )


def _texts(run: Run) -> Iterator[str]:
    """Yield the texts of the prompts of a few rows; half a surrogate pair is left to the rules about data."""
    for rows in run.once(train_rows):
        for _, row in list(rows.names())[:FEW]:
            messages = row.get(run.get("data.prompt_key"))
            for message in messages if isinstance(messages, list) else ():
                text = message.get("content") if isinstance(message, Mapping) else None
                if isinstance(text, str) and text.strip() and not HALF_PAIR.search(text):
                    yield text


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
    Rule(MODEL, _config, stage=Stage.REHEARSAL),
    Rule(MODEL, _weights, stage=Stage.REHEARSAL),
    Rule(MODEL, _architecture, stage=Stage.REHEARSAL),
    Rule(MODEL, _tokenizer, stage=Stage.REHEARSAL),
    Rule(MODEL, _ids, stage=Stage.REHEARSAL),
    Rule(LONGEST, _engine_length, stage=Stage.REHEARSAL),
    Rule(RESPONSE, _response_fits, stage=Stage.REHEARSAL),
    Rule(RESPONSE, _row_fits, stage=Stage.REHEARSAL, warns=True),
)
