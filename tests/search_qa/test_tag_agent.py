"""The paper's tag style: what is a call, and how its answer is appended."""

from __future__ import annotations

import json

import pytest
from verl.tools.schemas import OpenAIFunctionToolSchema

from verl_atpo.search_qa.tag_agent import TagAgentLoop, TagToolParser, tag_argument
from verl_atpo.tiny.tokenizer import text_tokenizer

TEXT = "<think>a</think> <search>q</search>"


def schema(name: str, *arguments: str, required: list[str] | None = None) -> OpenAIFunctionToolSchema:
    properties = {argument: {"type": "string", "description": "d"} for argument in arguments}
    parameters = {"type": "object", "properties": properties, "required": required or []}
    function = {"name": name, "description": "d", "parameters": parameters}
    return OpenAIFunctionToolSchema.model_validate({"type": "function", "function": function})


@pytest.fixture(scope="module")
def tokenizer():
    return text_tokenizer([TEXT])


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("<think>x</think>\n<search> who wrote it? </search>", [("search", {"query": "who wrote it?"})]),
        ("<search>a\nb</search>", [("search", {"query": "a\nb"})]),
        ("<search>été “quoted” \\n</search>", [("search", {"query": "été “quoted” \\n"})]),
        ("<search>a</search><look>b</look>", [("search", {"query": "a"}), ("look", {"at": "b"})]),
        ("<search></search>", [("search", {"query": ""})]),  # the tool says what is wrong with it
        ("<search>never closed", []),
        ("<other>a</other>", []),
        (r"<answer>The final answer is \boxed{4}</answer>", []),
    ],
)
async def test_calls_are_read_off_the_tags(tokenizer, text, calls):
    tools = [schema("search", "query", "topk", required=["query"]), schema("look", "at")]
    ids = tokenizer(text)["input_ids"]
    content, found = await TagToolParser(tokenizer).extract_tool_calls(ids, tools)
    assert content == text
    assert [(call.name, json.loads(call.arguments)) for call in found] == calls


async def test_without_tools_there_are_no_calls(tokenizer):
    assert await TagToolParser(tokenizer).extract_tool_calls(tokenizer(TEXT)["input_ids"], []) == (TEXT, [])


@pytest.mark.parametrize("arguments", [(), ("a", "b")])
def test_a_tool_that_a_tag_cannot_call_is_refused(arguments):
    with pytest.raises(ValueError, match=r"multi_turn\.format=hermes"):
        tag_argument(schema("add", *arguments))


@pytest.mark.parametrize("log_probs", [[-0.5, -0.1], None])
async def test_answers_are_appended_as_raw_text_that_is_not_trained(tokenizer, log_probs):
    loop = TagAgentLoop.__new__(TagAgentLoop)
    loop.tokenizer = tokenizer
    before = [{"role": "user", "content": "?"}, {"role": "assistant", "content": TEXT}]
    after = [*before, {"role": "tool", "content": "found"}]
    merged, mask, scores = await loop.ct_merge_context_msg(before, after, [7, 8, 9], [1, 1], log_probs)
    assert merged.token_ids[:3] == [7, 8, 9]
    assert tokenizer.decode(merged.token_ids[3:]) == "\n<result>\nfound\n</result>\n"
    added = len(merged.token_ids) - 3
    assert mask == [1, 1] + [0] * added
    assert scores == (log_probs and log_probs + [0.0] * added)
