"""Branching by replay: what a branch sees again, and what it notices."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from verl.tools.function_tool import FunctionTool
from verl.workers.rollout.replica import TokenOutput

from tests.assets.fakes import PROMPT, SCHEMA, FakeEngine, FakeLoop, contexts, guard, runner_of
from verl_atpo.failure import EngineOutage, RowMismatchError, TrajectoryBug
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.runner import LoopRunner, Start
from verl_atpo.replay.tools import ToolSession
from verl_atpo.tree.comparison import check_tree_row
from verl_atpo.tree.recording import group_turns


def wrap(session: ReplayClient, tool: FunctionTool) -> list:
    return ToolSession(session, guard()).wrap([tool])


async def _chain(engine: FakeEngine, loop: FakeLoop) -> tuple[ReplayClient, object]:
    return await runner_of(engine, loop).run(Start())


async def test_replay_repeats_the_prefix_and_calls_neither_engine_nor_tool_for_it():
    engine, loop = FakeEngine(stop=0.0), FakeLoop(max_turns=4)
    first, _ = await _chain(engine, loop)
    engine_calls, tool_calls = engine.calls, loop.tool_calls
    assert (engine_calls, tool_calls) == (4, 4)

    branch, output = await runner_of(engine, loop).run(Start(prefix=first.generations[:3]))

    assert branch.generations[:3] == first.generations[:3]
    assert branch.replayed == 3 and not branch.diverged
    assert engine.calls - engine_calls == 1  # turn 4 only
    assert loop.tool_calls - tool_calls == 1  # only what follows turn 4: the calls after turns 1 to 3 are on record
    asked = contexts(first.generations)[-1]
    assert contexts(branch.generations)[3] == asked
    assert output.response_ids[: len(asked) - 3] == asked[3:]


async def test_all_generations_carry_the_sticky_request_id():
    engine = FakeEngine(stop=0.0)
    await _chain(engine, FakeLoop(max_turns=3))
    assert engine.request_ids == ["tree"] * 3
    await ReplayClient(engine, None).generate("own-id", prompt_ids=PROMPT)
    assert engine.request_ids[-1] == "own-id"


@pytest.mark.parametrize("form", [np.array, torch.tensor, tuple], ids=["array", "tensor", "tuple"])
async def test_a_loop_may_ask_with_ids_in_any_form(form):
    asked = []

    class Engine(FakeEngine):
        async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: object) -> TokenOutput:
            asked.append(prompt_ids)
            return await super().generate(request_id, prompt_ids=prompt_ids, **kwargs)

    first = ReplayClient(Engine(), None)
    await first.generate("x", prompt_ids=form(PROMPT))
    assert asked == contexts(first.generations) == [PROMPT] and {type(each) for each in asked[0]} == {int}
    again = ReplayClient(Engine(), None, first.generations)
    await again.generate("x", prompt_ids=form(PROMPT))
    assert again.replayed == 1 and len(asked) == 1


async def test_divergence_ends_the_replay_at_once_and_the_branch_goes_on_live():
    engine = FakeEngine(stop=0.0)
    first, _ = await _chain(engine, FakeLoop(max_turns=4))
    tampered = [*first.generations]
    tampered[1].observed_ids[-1] += 1  # the environment answered something else after turn 1
    branch, _ = await runner_of(engine, FakeLoop(max_turns=4)).run(Start(prefix=tampered[:3]))
    assert branch.diverged
    assert branch.replayed == 1
    assert len(branch.generations) == 4
    assert branch.generations[2] is not tampered[2]  # nothing recorded is used behind the divergence


async def test_a_tool_error_is_raised_again_on_replay_without_a_call():
    calls = []

    def broken(at: int) -> int:
        calls.append(at)
        raise ValueError("no such page")

    engine = FakeEngine(stop=0.0)
    first = ReplayClient(engine, "tree")
    (tool,) = wrap(first, FunctionTool(name="look", fn=broken, tool_schema=SCHEMA))
    await first.generate("x", prompt_ids=PROMPT, sampling_params={})
    with pytest.raises(ValueError, match="no such page"):
        await tool.call({"at": 1})
    assert calls == [1]

    second = ReplayClient(engine, "tree", first.generations)
    (tool,) = wrap(second, FunctionTool(name="look", fn=broken, tool_schema=SCHEMA))
    await second.generate("x", prompt_ids=PROMPT, sampling_params={})
    with pytest.raises(ValueError, match="no such page"):
        await tool.call({"at": 1})
    assert calls == [1]


async def test_equal_parallel_calls_each_take_their_own_record():
    answers = iter([7, 8])
    engine = FakeEngine(stop=0.0)
    first = ReplayClient(engine, "tree")
    (tool,) = wrap(first, FunctionTool(name="look", fn=lambda at: next(answers), tool_schema=SCHEMA))
    await first.generate("x", prompt_ids=PROMPT, sampling_params={})
    lived = sorted([await tool.call({"at": 1}), await tool.call({"at": 1})])
    second = ReplayClient(engine, "tree", first.generations)
    (tool,) = wrap(second, FunctionTool(name="look", fn=lambda at: 0, tool_schema=SCHEMA))
    await second.generate("x", prompt_ids=PROMPT, sampling_params={})
    assert sorted([await tool.call({"at": 1}), await tool.call({"at": 1})]) == lived == [7, 8]
    assert await tool.call({"at": 1}) == 0  # a third call is not on record: live


async def test_equal_requests_at_the_same_time_are_answered_in_the_order_in_which_they_were_asked():
    """The first of two equal requests is answered last; a run that asks again gets its answer first."""
    later, token = asyncio.Event(), iter([7, 8])

    class Engine(FakeEngine):
        async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: object) -> TokenOutput:
            mine = next(token)
            if mine == 7:
                await later.wait()
            later.set()
            return TokenOutput(token_ids=[mine], log_probs=[-1.0])

    async def ask_twice(session: ReplayClient) -> list[list[int]]:
        asked = [session.generate("x", prompt_ids=PROMPT, sampling_params={}) for _ in range(2)]
        return [output.token_ids for output in await asyncio.gather(*asked)]

    first = ReplayClient(Engine(), "tree")
    assert await ask_twice(first) == [[7], [8]]
    assert [generation.output.token_ids for generation in first.generations] == [[8], [7]]
    assert await ask_twice(ReplayClient(Engine(), "tree", first.generations)) == [[7], [8]]


async def test_the_loop_may_change_what_it_got_without_touching_the_record():
    engine = FakeEngine(stop=0.0)
    session = ReplayClient(engine, "tree")
    prompt = list(PROMPT)
    output = await session.generate("x", prompt_ids=prompt, sampling_params={})
    sampled = list(output.token_ids)
    prompt.append(5)
    output.token_ids.append(5)
    assert session.generations[0].observed_ids == PROMPT
    assert session.generations[0].output.token_ids == sampled


async def _sub_agents(session: ReplayClient, pauses: list[float], odd: bool = False) -> None:
    """A main conversation of two turns; in between three sub-agents at once, each of two turns."""

    async def ask(context: list[int]) -> list[int]:
        output = await session.generate("x", prompt_ids=context, sampling_params={})
        return context + output.token_ids

    async def sub_agent(number: int) -> list[int]:
        await asyncio.sleep(pauses[number])
        context = await ask([*PROMPT, 200, 200 + number % 2])  # the first and the third are asked the same
        await asyncio.sleep(pauses[number])
        return await ask([*context, 150 + (odd and number == 1)])

    main = await ask(PROMPT)
    found = await asyncio.gather(*map(sub_agent, range(3)))
    await ask([*main, *sorted(token for context in found for token in context[-1:])])


async def test_conversations_at_the_same_time_are_replayed_wherever_they_are_cut():
    first = ReplayClient(FakeEngine(stop=0.0), "tree")
    await _sub_agents(first, [0.0, 0.002, 0.004])
    assert len(first.generations) == 8
    for length in range(8):
        for pauses in ([0.0, 0.002, 0.004], [0.004, 0.002, 0.0]):  # they ask in another order than they did
            again = ReplayClient(FakeEngine(seed=1, stop=0.0), "tree", first.generations[:length])
            await _sub_agents(again, pauses)
            assert (again.replayed, again.diverged, again.unasked) == (length, False, [])
            assert [a is b for a, b in zip(again.generations, first.generations, strict=True)].count(True) == length
            assert contexts(again.generations)[:length] == contexts(first.generations)[:length]


async def test_one_conversation_that_goes_another_way_leaves_the_others():
    first = ReplayClient(FakeEngine(stop=0.0), "tree")
    await _sub_agents(first, [0.0, 0.002, 0.004])
    odd = next(at for at, context in enumerate(contexts(first.generations)) if context[-1] == 150 and 201 in context)
    again = ReplayClient(FakeEngine(seed=1, stop=0.0), "tree", first.generations)
    await _sub_agents(again, [0.004, 0.0, 0.0], odd=True)
    again.close()
    assert again.diverged and again.replayed == 7 - (odd < 7)
    assert again.unasked[0] == contexts(first.generations)[odd]
    asked = contexts(again.generations)
    assert len(asked) == 8
    assert sum(context[-1] == 151 for context in asked) == 1
    assert sorted(asked[:2]) == sorted(contexts(first.generations)[:2])


async def test_a_record_is_put_together_anew_where_a_part_of_it_is_missing():
    """The second answer to one question is continued; a run that asks once gets the first, so its base is missing."""
    first = ReplayClient(Answers(*(TokenOutput(token_ids=[7], log_probs=[-1.0]) for _ in range(3))), "tree")
    for prompt in (PROMPT, PROMPT, [*PROMPT, 7, 100]):
        await first.generate("x", prompt_ids=prompt, sampling_params={})
    again = ReplayClient(Answers(TokenOutput(token_ids=[8], log_probs=[-1.0])), "tree", first.generations)
    for prompt in (PROMPT, [*PROMPT, 7, 100], [*PROMPT, 7, 100, 7, 101]):
        await again.generate("x", prompt_ids=prompt, sampling_params={})
    again.close()
    assert again.diverged and again.replayed == 2
    assert contexts(again.generations) == [PROMPT, [*PROMPT, 7, 100], [*PROMPT, 7, 100, 7, 101]]


async def test_other_attributes_are_those_of_the_client():
    engine = FakeEngine()
    assert ReplayClient(engine, "tree").calls == 0


async def test_turns_are_found_where_they_were_sampled():
    session, output = await _chain(FakeEngine(stop=0.0), FakeLoop(max_turns=3))
    turns = group_turns(session.generations)
    starts = check_tree_row(session.generations, output)
    assert starts[0] == 0 and len(starts) == 3
    for start, turn in zip(starts, turns, strict=True):
        assert output.response_ids[start : start + len(turn.token_ids)] == turn.token_ids
        assert start == 0 or output.response_mask[start - 1] == 0


async def test_a_continued_generation_belongs_to_the_turn_it_continues():
    engine = FakeEngine(stop=0.0)
    session = ReplayClient(engine, "tree")
    one = await session.generate("x", prompt_ids=PROMPT, sampling_params={})
    two = await session.generate("x", prompt_ids=PROMPT + one.token_ids, sampling_params={})
    await session.generate("x", prompt_ids=[*PROMPT, *one.token_ids, *two.token_ids, 100], sampling_params={})
    turns = group_turns(session.generations)
    assert [len(turn.generations) for turn in turns] == [2, 1]
    log_probs = one.log_probs + two.log_probs
    assert turns[0].mean_nll == pytest.approx(-sum(log_probs) / len(log_probs))


async def test_a_turn_is_told_when_the_loop_goes_on_after_it_and_only_once_it_is_over():
    told: list[list[int]] = []

    def on_turn(session: ReplayClient) -> None:
        told.append([len(turn.generations) for turn in group_turns(session.generations)])

    first = ReplayClient(FakeEngine(stop=0.0), "tree")
    prompt = list(PROMPT)
    for seen in ([100], [], [101], [102]):
        output = await first.generate("x", prompt_ids=prompt, sampling_params={})
        prompt = [*prompt, *output.token_ids, *seen]
    branch = ReplayClient(FakeEngine(stop=0.0), "tree", first.generations[:1], on_turn)
    prompt = list(PROMPT)
    for seen in ([100], [], [101], [102]):  # a replayed turn, one of two generations, one that is the last
        output = await branch.generate("x", prompt_ids=prompt, sampling_params={})
        prompt = [*prompt, *output.token_ids, *seen]
    assert told == [[1, 2]]


async def test_a_row_without_its_first_tokens_is_refused():
    session, output = await _chain(FakeEngine(stop=0.0), FakeLoop(max_turns=3))
    output.response_ids = output.response_ids[2:]
    output.response_mask = output.response_mask[2:]
    with pytest.raises(RowMismatchError, match=r"response token 0 \(in turn 1\) is \d+, the engine sampled \d+"):
        check_tree_row(session.generations, output)


class Answers:
    """An engine that gives these answers, one after the other; ``before`` runs first."""

    def __init__(self, *answers: TokenOutput, before=None) -> None:
        self.answers, self.before, self.asked = list(answers), before, []

    async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: object) -> TokenOutput:
        self.asked.append(kwargs)
        if self.before is not None:
            await self.before()
        return self.answers.pop(0)


def answer(*tokens: int, reason: str | None = "completed") -> TokenOutput:
    return TokenOutput(token_ids=list(tokens), log_probs=[-1.0] * len(tokens), stop_reason=reason)


@pytest.mark.parametrize("reason", ["aborted", "abort", "error"])
async def test_a_generation_that_the_engine_gave_up_is_an_outage(reason):
    session = ReplayClient(Answers(answer(7, reason=reason)), None)
    with pytest.raises(EngineOutage, match=f"gave a generation up after 1 tokens .stop_reason='{reason}'"):
        await session.generate("x", prompt_ids=PROMPT)
    assert session.generations == []
    with pytest.raises(EngineOutage):  # also where the loop swallows it
        session.raise_failure()


@pytest.mark.parametrize("reason", ["completed", None, "length"])
async def test_an_empty_generation_is_an_outage_and_a_short_one_is_not(reason):
    with pytest.raises(EngineOutage, match="after 0 tokens"):
        await ReplayClient(Answers(answer(reason=reason)), None).generate("x", prompt_ids=PROMPT)
    assert (await ReplayClient(Answers(answer(7, reason=reason)), None).generate("x", prompt_ids=PROMPT)).token_ids


async def test_a_task_that_the_loop_left_gets_no_answer():
    engine = FakeEngine(stop=0.0, latency_s=0.02)
    left = []

    async def loop(session: ReplayClient, tools: list) -> None:
        output = await session.generate("x", prompt_ids=PROMPT)
        left.append(asyncio.create_task(session.generate("x", prompt_ids=[*PROMPT, *output.token_ids, 100])))
        await asyncio.sleep(0)

    session, _ = await LoopRunner(engine, guard(), loop).run(Start())
    assert len(session.generations) == 1
    with pytest.raises(TrajectoryBug, match="after the loop's end"):  # what was under way
        await left[0]
    with pytest.raises(TrajectoryBug, match="after the loop's end"):  # what is asked later
        await session.generate("x", prompt_ids=PROMPT)
    assert len(session.generations) == 1


@pytest.mark.parametrize("kind", ["image_data", "video_data", "audio_data"])
async def test_a_replay_compares_pictures_and_sounds(kind):
    """Equal placeholder tokens, another screenshot."""
    first = ReplayClient(Answers(answer(7), answer(8)), None)
    screen, other = np.zeros((4, 4), np.uint8), np.eye(4, dtype=np.uint8)
    await first.generate("x", prompt_ids=PROMPT, **{kind: [screen]})
    await first.generate("x", prompt_ids=[*PROMPT, 7, 100], **{kind: [screen, other]})
    for second, diverged in ((other, False), (screen, True)):
        branch = ReplayClient(Answers(answer(9)), None, first.generations)
        await branch.generate("x", prompt_ids=PROMPT, **{kind: [screen.copy()]})
        await branch.generate("x", prompt_ids=[*PROMPT, 7, 100], **{kind: [screen, second]})
        assert (branch.replayed, branch.diverged) == (2 - diverged, diverged)
