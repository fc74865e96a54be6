"""A model of 0.2 million parameters with a task's own vocabulary, to try everything on a CPU before using GPUs.

| file | what it holds |
|---|---|
| ``tokenizer.py`` | byte-level tokenizers, trained on the words of a task |
| ``chat.py``, ``chat_template.jinja`` | the chat format: ChatML with Hermes tool calls |
| ``demo.py`` | demonstrations, in progress and complete |
| ``model.py`` | a Qwen3 |
| ``training.py`` | the warm start: imitating demonstrations |
| ``sampling.py`` | sampling turns without an engine |
"""

from verl_atpo.tiny.chat import AnswerChat, ChatFormat
from verl_atpo.tiny.demo import Demo, Transcript
from verl_atpo.tiny.model import build_model, save
from verl_atpo.tiny.training import TrainSettings, imitate, train

__all__ = [
    "AnswerChat",
    "ChatFormat",
    "Demo",
    "TrainSettings",
    "Transcript",
    "build_model",
    "imitate",
    "save",
    "train",
]
