"""Tools inside a run: what is replayed, forked, limited, remembered and released."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import time
from collections.abc import Sequence

import pytest
from verl.tools.base_tool import BaseTool
from verl.tools.function_tool import FunctionTool
from verl.tools.schemas import ToolResponse

from tests.assets.fakes import PROMPT, SCHEMA, FakeEngine, guard
from verl_atpo.failure import TrajectoryBug
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.guard import CallMemo
from verl_atpo.replay.tools import ToolSession
from verl_atpo.tools import Branching, StatefulTool, ToolOutage, TransientToolError
from verl_atpo.tools.contract import branching_of
from verl_atpo.tree.recording import Generation


class Counter(StatefulTool):
    """Adds up what it is called with; replayed."""

    name = "count"

    def __init__(self, delay_s: float = 0.0) -> None:
        super().__init__({})
        self.delay_s = delay_s
        self.opened: list[list[int]] = []
        self.closed: list[list[int]] = []
        self.made: list[int] = []

    def open(self, start: int = 0) -> list[int]:
        state = [start]
        self.opened.append(state)
        time.sleep(self.delay_s)
        return state

    def call(self, state: list[int], add: int) -> str:
        """Adds a number.

        Args:
            add: The number.
        """
        self.made.append(add)
        if add < 0:
            raise ValueError("below zero")
        state[0] += add
        return f"sum {state[0]}"

    def close(self, state: list[int]) -> None:
        assert not any(state is other for other in self.closed)
        self.closed.append(state)


class ForkingCounter(Counter):
    """The same with snapshots; forked."""

    def snapshot(self, state: list[int]) -> list[int]:
        return copy.copy(state)

    def restore(self, snapshot: list[int]) -> list[int]:
        state = copy.copy(snapshot)
        self.opened.append(state)
        return state


class Run:
    """One trajectory: generates, calls its tool with the given numbers, one per turn, and closes."""

    def __init__(self, tool: object, prefix: Sequence[Generation] = (), **settings: object) -> None:
        self.session = ReplayClient(FakeEngine(stop=0.0), "tree", prefix)
        self.tools = ToolSession(self.session, guard(**settings))
        (self.tool,) = self.tools.wrap([tool])
        self.prompt = list(PROMPT)

    async def __call__(self, *numbers: int, start: int = 0) -> list[str]:
        seen = []
        for add in numbers:
            output = await self.session.generate("x", prompt_ids=self.prompt)
            made, _ = await self.tool.create(create_kwargs={"start": start})
            try:
                response, _, _ = await self.tool.execute(made, {"add": add})
            finally:
                await self.tool.release(made)
            seen.append(response.text)
            self.prompt = [*self.prompt, *output.token_ids, *response.text.encode()]
        await self.tools.close()
        return seen


def test_branching_is_declared_or_safe():
    function = FunctionTool(name="look", fn=lambda: 0, tool_schema=SCHEMA)
    assert branching_of(function) is Branching.STATELESS
    assert branching_of(BaseTool({}, SCHEMA)) is Branching.REPLAY  # it says nothing, so it may hold state
    assert (branching_of(Counter()), branching_of(ForkingCounter())) == (Branching.REPLAY, Branching.FORK)


def test_the_schema_is_read_off_the_call():
    function = Counter().tool_schema.function
    assert function.name == "count" and function.description == "Adds a number."
    assert list(function.parameters.properties) == function.parameters.required == ["add"]


@pytest.mark.parametrize("kind", [Counter, ForkingCounter])
async def test_a_branch_finds_the_state_its_shared_turns_left(kind):
    tool = kind()
    first = Run(tool)
    assert await first(1, 2, 4, start=10) == ["sum 11", "sum 13", "sum 17"]
    made = len(tool.made)

    branch = Run(tool, first.session.generations[:2])
    assert await branch(1, 2, 8, start=10) == ["sum 11", "sum 13", "sum 21"]
    assert branch.session.replayed == 2 and not branch.session.diverged
    # Replay makes the two shared calls again, fork makes none of them.
    assert tool.made[made:] == ([1, 2, 8] if kind is Counter else [8])
    # The branch's own turns can be branched at in turn, and the first run's state is untouched by all that.
    deeper = Run(tool, branch.session.generations[:3])
    assert (await deeper(1, 2, 8, 16, start=10))[-1] == "sum 37"
    assert sorted(state[0] for state in tool.closed) == [17, 21, 37]
    assert len(tool.opened) == len(tool.closed) == 3


async def test_an_unread_fork_opens_no_state():
    tool = ForkingCounter()
    first = Run(tool)
    await first(1, 2)
    branch = Run(tool, first.session.generations)
    await branch(1, 2)  # ends within the replay
    assert len(tool.opened) == len(tool.closed) == 1


async def test_a_drifting_environment_ends_the_replay():
    tool = Counter()
    first = Run(tool)
    await first(1, 2, 4)
    tool.call = lambda state, add: f"sum {len(tool.opened)}.{add}"
    branch = Run(tool, first.session.generations)
    await branch(1, 2, 4)
    assert branch.session.diverged and branch.session.replayed == 1


async def test_an_error_is_the_models_to_read_and_leaves_the_state_alone():
    tool = ForkingCounter()
    run = Run(tool)
    with pytest.raises(ValueError, match="below zero"):
        await run(1, -5)
    assert run.tools.counts.errors == 1 and run.session.failure is None
    assert run.tools.counts.first_error.startswith("Traceback")
    await run.tools.close()
    assert len(tool.closed) == 1
    again = Run(tool, run.session.generations)
    with pytest.raises(ValueError, match="below zero"):
        await again(1, -5)
    assert again.tools.counts.calls == 0


async def test_the_call_limit_is_told_and_holds_across_replay():
    tool = Counter()
    first = Run(tool, max_calls=2)
    told = "The limit of 2 tool calls is reached. Answer with what you know."
    assert await first(1, 2, 4, 8) == ["sum 1", "sum 3", told, told]
    branch = Run(tool, first.session.generations[:3], max_calls=2)
    assert await branch(1, 2, 4, 8) == ["sum 1", "sum 3", told, told]
    assert not branch.session.diverged
    assert (first.tools.counts.over_limit, branch.tools.counts.over_limit) == (2, 1)
    assert tool.made == [1, 2, 1, 2]


async def test_an_outage_fails_the_run_at_its_next_generation():
    tool = Counter()
    tool.call = _out
    run = Run(tool)
    with pytest.raises(ToolOutage, match=r"'count' is out.*refused"):
        await run(1, 2)
    assert run.tools.counts.outages == 1 and run.tools.counts.errors == 0
    await run.tools.close()
    assert len(tool.opened) == len(tool.closed) == 1

    observing = Run(tool, on_outage="observe")
    assert await observing(1, 2) == ["count is not available at the moment."] * 2
    assert observing.tools.counts.outages == 2 and observing.session.failure is None


def _out(state: list[int], add: int) -> str:
    raise ConnectionError("refused")


async def test_a_stateful_call_is_tried_again_only_if_it_says_so():
    tool, tries = Counter(), []

    def failing(error: Exception):
        def call(state: list[int], add: int) -> str:
            tries.append(add)
            if len(tries) < 3:
                raise error
            return "made"

        return call

    tool.call = failing(TransientToolError("busy"))
    assert await Run(tool)(1) == ["made"] and len(tries) == 3
    tries.clear()
    tool.call = failing(ConnectionError("gone in the middle"))
    run = Run(tool, on_outage="observe")
    await run(1)
    assert len(tries) == 1 and run.tools.counts.outages == 1


async def test_a_state_that_is_opened_too_late_is_released_all_the_same():
    tool = Counter(delay_s=0.3)
    run = Run(tool, timeout_s=0.05, on_outage="observe")
    await run.session.generate("x", prompt_ids=PROMPT)
    made, _ = await run.tool.create()
    await run.tool.execute(made, {"add": 1})
    assert len(tool.opened) == 1 and not tool.closed
    run.tools._guard.config = dataclasses.replace(run.tools._guard.config, timeout_s=5.0)
    await run.tools.close()
    assert len(tool.closed) == 1
    assert (run.tools.counts.states_opened, run.tools.counts.states_closed) == (1, 1)


async def test_a_cancelled_run_releases_its_state():
    class Slow(Counter):
        async def call(self, state: list[int], add: int) -> str:
            """Waits.

            Args:
                add: The number.
            """
            await asyncio.sleep(60)
            return ""

    tool = Slow()
    run = Run(tool)
    task = asyncio.create_task(run(1))
    while not tool.opened:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await run.tools.close()
    assert len(tool.closed) == 1 and len(asyncio.all_tasks()) == 1


async def test_equal_calls_of_stateless_tools_are_made_once():
    made = []

    async def look(at: int) -> str:
        made.append(at)
        await asyncio.sleep(0.01)
        return f"seen {at}"

    memo = CallMemo(10)
    counts = []
    for _ in range(2):
        session = ReplayClient(FakeEngine(), None)
        tools = ToolSession(session, guard(), memo)
        (tool,) = tools.wrap([FunctionTool(name="look", fn=look, tool_schema=SCHEMA, is_async=True)])
        await session.generate("x", prompt_ids=PROMPT)
        assert await asyncio.gather(tool.call({"at": 1}), tool.call({"at": 1}), tool.call({"at": 2})) == [
            "seen 1",
            "seen 1",
            "seen 2",
        ]
        counts.append((tools.counts.calls, tools.counts.memo_hits))
    assert sorted(made) == [1, 2] and counts == [(2, 1), (0, 3)]


async def test_a_stateful_tool_is_never_remembered():
    tool, memo = Counter(), CallMemo(10)
    run = Run(tool)
    run.tools._memo = memo
    assert await run(1, 1) == ["sum 1", "sum 2"]


async def test_stateful_tools_work_in_verls_own_sampler_too():
    class Trajectory:
        pass

    tool, one, other = Counter(), Trajectory(), Trajectory()
    for trajectory, expected in [(one, "sum 3"), (other, "sum 3"), (one, "sum 6")]:
        made, _ = await tool.create(create_kwargs={})
        response, reward, _ = await tool.execute(made, {"add": 3}, agent_data=trajectory)
        await tool.release(made)
        assert isinstance(response, ToolResponse) and response.text == expected and reward == 0.0
    assert len(tool.opened) == 2 and not tool.closed
    del one, trajectory
    for _ in range(100):
        if tool.closed:
            break
        await asyncio.sleep(0.01)
    assert tool.closed == [[6]]


@pytest.mark.parametrize(
    ("raised", "error", "words"),
    [
        (
            ZeroDivisionError("by zero"),
            TrajectoryBug,
            r"ForkingCounter\.snapshot of the tool 'count' raised ZeroDivision",
        ),
        (TransientToolError("disk busy"), TransientToolError, "disk busy"),
    ],
)
async def test_a_snapshot_that_fails_fails_the_run_not_the_call(raised, error, words):
    tool = ForkingCounter()
    tool.snapshot = raising(raised)
    run = Run(tool)
    with pytest.raises(error, match=words):
        await run(1, 2)
    assert run.tools.counts.errors == 0 and tool.made == [1]
    await run.tools.close()


async def test_an_argument_may_have_any_name():
    class Plot(Counter):
        def call(self, state: list[int], function: str) -> str:
            """Plots.

            Args:
                function: Of x.
            """
            return f"plotted {function}"

    run = Run(Plot())
    await run.session.generate("x", prompt_ids=PROMPT)
    made, _ = await run.tool.create()
    response, _, _ = await run.tool.execute(made, {"function": "x"})
    assert response.text == "plotted x"
    await run.tools.close()


async def test_a_tool_that_cannot_be_opened_is_broken():
    tool = Counter()
    tool.open = raising(KeyError("board"))
    run = Run(tool)
    with pytest.raises(
        TrajectoryBug, match=r"Counter\.open with create_kwargs=.*start.*KeyError: 'board'.*tools_kwargs"
    ):
        await run(1, 2)
    assert run.tools.counts.errors == 0


async def test_a_call_may_refuse_what_the_model_wrote():
    run = Run(Counter())
    with pytest.raises(ValueError, match="below zero"):  # agent loops make it an observation
        await run(-1)
    assert run.tools.counts.errors == 1 and run.session.failure is None


def raising(error: Exception):
    def method(*args: object, **kwargs: object) -> None:
        raise error

    return method


@pytest.mark.parametrize("kind", [Counter, ForkingCounter])
async def test_a_tool_may_return_its_living_state(kind):
    """Text is made when the call is made: what a state becomes later changes no record."""

    class Showing(kind):
        def call(self, state: list[int], add: int) -> list[int]:
            """Adds.

            Args:
                add: The number.
            """
            state[0] += add
            return state

    tool = Showing()
    first = Run(tool)
    assert await first(1, 2, 4) == ["[1]", "[3]", "[7]"]
    assert [generation.tool_calls[0].result for generation in first.session.generations] == ["[1]", "[3]", "[7]"]
    for shared in range(1, 4):
        branch = Run(tool, first.session.generations[:shared])
        assert await branch(1, 2, 4) == ["[1]", "[3]", "[7]"]
        assert branch.session.replayed == shared and not branch.session.diverged
