"""A tiny model for trying out the paper's setting: it has learned the format of a response, and little else.

python -m examples.paper_small.make_model --questions q.jsonl --corpus c.jsonl --style tags --out DIR
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from examples.kit.stages import parser, say
from recipes.data.prompts import PROMPTS, build_messages
from verl_atpo.tiny.demo import Demo, Transcript
from verl_atpo.tiny.model import build_model, save
from verl_atpo.tiny.tokenizer import END, START, text_tokenizer
from verl_atpo.tiny.training import TrainSettings, collate, train

CONTEXT, STEPS, ROWS = 2048, 200, 4
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}"
    "<|im_start|>user\n<tool_response>\n{{ message['content'] }}\n</tool_response><|im_end|>\n"
    "{% else %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def parts(style: str, query: str, found: str, answer: str) -> list[tuple[str, bool]]:
    """A response in its parts: text, and whether the policy writes it."""
    final = rf"<answer>The final answer is \boxed{{{answer}}}</answer>"
    if style == "tags":
        return [
            (f"<think>I look this up.</think>\n<search>{query}</search>", True),
            (f"\n<result>\n{found}\n</result>\n", False),
            (f"<think>Now I know.</think>\n{final}{END}", True),
        ]
    call = json.dumps({"name": "search", "arguments": {"query": query}}, ensure_ascii=False)
    return [
        (f"<tool_call>\n{call}\n</tool_call>{END}", True),
        (f"\n{START}user\n<tool_response>\n{found}\n</tool_response>{END}\n{START}assistant\n", False),
        (f"{final}{END}", True),
    ]


def demonstrations(
    tokenizer: PreTrainedTokenizerFast, questions: list[dict], corpus: list[str], style: str
) -> list[Demo]:
    """Make one response per question, which searches for a title and answers correctly."""
    by_title = {text.partition("\n")[0].strip('"'): text for text in corpus}
    demos = []
    for question in questions:
        titles = [title for title in question["metadata"]["context_titles"] if title in by_title] or list(by_title)
        found = f"Doc 1(Title: {titles[0]}) {by_title[titles[0]]}"
        prompt = tokenizer.apply_chat_template(
            build_messages(question["question"], style), add_generation_prompt=True, tokenize=False
        )
        transcript = Transcript()
        for text, own in [(prompt, False), *parts(style, titles[0], found, question["golden_answers"][0])]:
            (transcript.write if own else transcript.read)(tokenizer(text, add_special_tokens=False)["input_ids"])
        demos.append(transcript.demo())
    return demos


def main() -> None:
    """Command line."""
    command = parser(__doc__)
    command.add_argument("--questions", type=Path, required=True, help="JSONL with metadata.context_titles")
    command.add_argument("--corpus", type=Path, required=True, help="JSONL with contents")
    command.add_argument("--style", choices=sorted(PROMPTS), default="tags")
    options = command.parse_args()
    questions = [json.loads(line) for line in options.questions.read_text(encoding="utf-8").splitlines()]
    corpus = [json.loads(line)["contents"] for line in options.corpus.read_text(encoding="utf-8").splitlines()]
    texts = [*corpus, *PROMPTS.values(), *(question["question"] for question in questions)]
    tokenizer = text_tokenizer(texts, CHAT_TEMPLATE, CONTEXT)
    model = build_model(tokenizer, options.seed)
    model.config.max_position_embeddings = CONTEXT
    demos, rng = demonstrations(tokenizer, questions, corpus, options.style), random.Random(options.seed)
    batches = (collate(rng.sample(demos, min(ROWS, len(demos))), tokenizer.pad_token_id) for _ in range(STEPS))
    train(model, batches, STEPS, say, TrainSettings())
    save(model, tokenizer, options.out)
    say(f"{model.num_parameters():,} parameters, in {options.out}")


if __name__ == "__main__":
    main()
