r"""The system messages of the two prompt styles; the question alone is the user message.

They ask for exactly what ``verl_atpo.search_qa.rewards`` checks. All are raw strings: in any other, the ``\b`` of
``\boxed`` is a backspace, and the prompt no longer names the box that the reward looks for.
"""

from __future__ import annotations

TOOLS = r"""You answer questions with the help of a search engine over Wikipedia, which you reach by calling the
function `search`.

1. Think about what you know and what you still have to find out.
2. Search as often as you need to, for one fact at a time, and read what was found before you go on.
3. When you know the answer, write a last message without a function call, and end it with
<answer>The final answer is \boxed{ANSWER}</answer>

In place of ANSWER stands the answer and nothing else: a name, a date, a number, or yes or no; not a sentence and not
an explanation. Write <answer> and </answer> once only, and nothing after </answer>."""

TAGS = r"""You answer questions with the help of a search engine over Wikipedia, step by step.

1. Think between <think> and </think> about what you know and what you still have to find out.
2. To look something up, write <search>QUERY</search>, for one fact at a time. What was found then appears between
<result> and </result>; never write these two tags yourself.
3. Think again, between <think> and </think>, after each result, and search again as often as you need to.
4. When you know the answer, end with <answer>The final answer is \boxed{ANSWER}</answer>

So a response looks like this:
<think>what is needed</think>
<search>QUERY</search>
<result>
passages
</result>
<think>what follows from them</think>
<answer>The final answer is \boxed{ANSWER}</answer>

In place of ANSWER stands the answer and nothing else: a name, a date, a number, or yes or no; not a sentence and not
an explanation. Close every tag before you open the next, write <answer> and </answer> once only, and nothing after
</answer>."""

PROMPTS: dict[str, str] = {"tools": TOOLS, "tags": TAGS}
"""Style -> system message."""


def build_messages(question: str, style: str) -> list[dict[str, str]]:
    """The chat messages that ask ``question`` in a style of ``PROMPTS``."""
    return [{"role": "system", "content": PROMPTS[style]}, {"role": "user", "content": question}]
