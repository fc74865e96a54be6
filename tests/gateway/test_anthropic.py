"""The package ``anthropic`` against the endpoint."""

from __future__ import annotations

import anthropic
import pytest

from tests.assets.scripted_engine import ScriptedEngine, call_text, make_loop, run, sampled, tokenizer

SEARCH = {
    "name": "search",
    "description": "Find.",
    "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
}
SCRIPT = [call_text("Oslo", thought="I look it up."), call_text("Oslo", "Bergen"), "In Norway."]


def client_of(base_url, api_key):
    return anthropic.AsyncAnthropic(base_url=base_url.removesuffix("/v1"), api_key=api_key, max_retries=0)


async def converse(client, text, stream=False):
    """Call tools until the model answers; returns its text."""
    messages = [{"role": "user", "content": text}]
    options = {"model": "m", "max_tokens": 500, "system": [{"type": "text", "text": "Be brief."}], "tools": [SEARCH]}
    while True:
        if stream:
            async with client.messages.stream(messages=messages, **options) as events:
                answer = await events.get_final_message()
        else:
            answer = await client.messages.create(messages=messages, **options)
        messages.append(
            {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in answer.content]}
        )
        calls = [block for block in answer.content if block.type == "tool_use"]
        if not calls:
            assert answer.stop_reason == "end_turn"
            return answer.content[0].text
        assert answer.stop_reason == "tool_use"
        results = [
            {
                "type": "tool_result",
                "tool_use_id": call.id,
                "content": [{"type": "text", "text": f"{call.input['query']}!"}],
            }
            for call in calls
        ]
        messages.append({"role": "user", "content": results})


@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_is_one_row_that_holds_what_was_sampled(stream):
    async def agent(task, base_url, api_key):
        async with client_of(base_url, api_key) as client:
            return await converse(client, task.text, stream)

    engine = ScriptedEngine(list(SCRIPT))
    (row,) = await run(make_loop(engine, agent))
    assert sampled([row]) == [token for answer in engine.answers for token in answer]
    assert row.prompt_ids + row.response_ids == engine.contexts[-1] + engine.answers[-1]
    assert row.extra_fields["agent_result"] == "In Norway."
    assert row.extra_fields["agent_edits"] == {}
    text = tokenizer().decode(engine.contexts[1])
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhere is Oslo?<|im_end|>\n")
    assert text.endswith("<|im_start|>tool\n<tool_response>Oslo!</tool_response><|im_end|>\n<|im_start|>assistant\n")


async def test_stop_length_and_counts():
    async def agent(task, base_url, api_key):
        messages = [{"role": "user", "content": "x"}]
        async with client_of(base_url, api_key) as client:
            cut = await client.messages.create(model="m", messages=messages, max_tokens=3)
            stopped = await client.messages.create(
                model="m", messages=messages, max_tokens=50, stop_sequences=["Norway"]
            )
        return {
            "cut": (cut.stop_reason, cut.usage.output_tokens, cut.usage.input_tokens),
            "stopped": (stopped.stop_reason, stopped.stop_sequence, stopped.content[0].text),
        }

    engine = ScriptedEngine(["A long answer.", "In Norway now."])
    rows = await run(make_loop(engine, agent))
    found = rows[0].extra_fields["agent_result"]
    assert found["cut"] == ("max_tokens", 3, len(engine.contexts[0]))
    assert found["stopped"] == ("stop_sequence", "Norway", "In ")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        ({"tool_choice": {"type": "tool", "name": "search"}, "tools": [SEARCH]}, "tool_choice"),
        ({"messages": [{"role": "assistant", "content": "Half an"}]}, "messages"),
        ({"extra_body": {"beam_width": 3}}, "beam_width"),
        ({"extra_body": {"output_config": {"format": {"type": "json_schema", "schema": {}}}}}, "output_config.format"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]},
            "image",
        ),
    ],
)
async def test_what_cannot_be_honoured_is_refused_in_the_apis_format(wrong, named):
    async def agent(task, base_url, api_key):
        request = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
        async with client_of(base_url, api_key) as client:
            with pytest.raises(anthropic.BadRequestError) as caught:
                await client.messages.create(**{**request, **wrong})
            await client.messages.create(**request)
        return {"refusal": caught.value.body}

    (row,) = await run(make_loop(ScriptedEngine(["Fine."]), agent))
    refusal = row.extra_fields["agent_result"]["refusal"]
    assert refusal["type"] == "error" and refusal["error"]["type"] == "invalid_request_error"
    assert named in refusal["error"]["message"]


async def test_another_key_is_refused():
    async def agent(task, base_url, api_key):
        request = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
        async with client_of(base_url, "sk-other") as client:
            with pytest.raises(anthropic.AuthenticationError):
                await client.messages.create(**request)
        async with client_of(base_url, api_key) as client:
            await client.messages.create(**request)

    await run(make_loop(ScriptedEngine(["Fine."]), agent))
