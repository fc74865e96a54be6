"""verl's own tool agent with our tools: its own answers are counted, tools end episodes, actions share a state."""

from __future__ import annotations

import asyncio
import copy
import gc
import itertools
import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput, ToolListWrap
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.experimental.agent_loop.tool_parser import FunctionCall
from verl.tools import function_tool as verls
from verl.tools.base_tool import BaseTool
from verl.tools.tool_registry import load_all_tools
from verl.workers.rollout.replica import TokenOutput

from tests.assets.fakes import SCHEMA, FakeEngine, guard
from tests.assets.worker import Queue, make_worker, prompt
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.tools import ToolSession
from verl_atpo.report.metrics import WorkerStats, step_metrics
from verl_atpo.tiny import ChatFormat, build_model, save
from verl_atpo.tools import Toolbox

ASSETS = Path(__file__).parents[1] / "assets"
FILE = str(ASSETS / "shell_tool.py")
TRAIN = {"validate": False, "step": 1, "sample_index": 0, "rollout_n": 0}
VALIDATE = {**TRAIN, "validate": True}


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch):
    """The asset's module, loaded anew; verl's registries as they were."""
    before, loaded = copy.copy(verls.FUNCTION_TOOL_REGISTRY), copy.copy(verls._LOADED_FUNCTION_TOOL_PATHS)
    verls.FUNCTION_TOOL_REGISTRY.clear()
    verls._LOADED_FUNCTION_TOOL_PATHS.clear()
    sys.modules.pop("tests.assets.shell_tool", None)
    import tests.assets.shell_tool as module

    yield module
    for registry, old in [(verls.FUNCTION_TOOL_REGISTRY, before), (verls._LOADED_FUNCTION_TOOL_PATHS, loaded)]:
        registry.clear()
        registry.update(old)
    sys.modules.pop("tests.assets.shell_tool", None)


def tool_file(folder: Path, *names: str) -> str:
    file = folder / "tools.yaml"
    entries = [f"  - {{class_name: tests.assets.shell_tool.{name}, config: {{type: native}}}}" for name in names]
    file.write_text("\n".join(["tools:", *entries, ""]))
    return str(file)


class Agent:
    """verl's tool agent around its calls: one trajectory without a model."""

    def __init__(self, tools: list[Any], tools_kwargs: Any = None) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self.max_tool_response_length, self.tool_response_truncate_side = 256, "middle"
        self.tools_kwargs = tools_kwargs
        self.trajectory = SimpleNamespace()

    async def call(self, name: str, arguments: Any, raw: bool = False) -> tuple[str, float]:
        text = arguments if raw else json.dumps(arguments)
        call = FunctionCall(name=name, arguments=text)
        response, reward, _ = await ToolAgentLoop._call_tool(self, call, self.tools_kwargs, self.trajectory)
        return response.text, reward


class Raising(BaseTool):
    """Its instances cannot be made."""

    async def create(self, instance_id: str | None = None, **kwargs: Any) -> Any:
        raise KeyError("board")


class Session:
    """A run with its tools, as the rollout has it."""

    def __init__(self, tools: list[Any], tools_kwargs: Any = None, prefix: Any = (), **settings: Any) -> None:
        self.client = ReplayClient(FakeEngine(stop=0.0), None, prefix)
        self.session = ToolSession(self.client, guard(**settings))
        self._tools, self._tools_kwargs = tools, tools_kwargs

    async def __aenter__(self) -> Session:
        await self.session.__aenter__()
        self.agent = Agent(self.session.wrap(self._tools), self._tools_kwargs)
        await self.client.generate("x", prompt_ids=[1])
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.session.__aexit__(*error)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("fly", "{}", "Unknown function 'fly'"),
        ("double", '{"number": ', "Invalid JSON in arguments"),
        ("double", "[1]", "Arguments of 'double' have to be a JSON object, got list."),
        ("cd", '"red"', "Arguments of 'cd' have to be a JSON object, got str."),
        ("look", "{}", "Error executing tool 'look': 'board'"),
    ],
)
async def test_what_verl_answers_instead_of_a_tool_is_an_error(shell, name: str, arguments: str, said: str) -> None:
    tools = [shell.Shell({}), verls.FUNCTION_TOOL_REGISTRY["double"], Raising({}, SCHEMA)]
    async with Session(tools) as run:
        text, reward = await run.agent.call(name, arguments, raw=True)
    assert said in text and reward == 0.0
    counts = run.session.counts
    assert (counts.errors, counts.calls) == (1, 0) and said.split("'")[0] in counts.first_error
    (call,) = run.client.generations[0].tool_calls
    assert call.name == name and not call.made and str(call.error) == text
    async with Session(tools, prefix=run.client.generations) as again:  # on record: not counted twice
        assert (await again.agent.call(name, arguments, raw=True))[0] == text
    assert again.session.counts.errors == 0


async def test_an_error_of_the_tool_is_counted_once(shell) -> None:
    async with Session([shell.Shell({})]) as run:
        assert (await run.agent.call("cd", {"folder": "blue"}))[0] == "Error executing tool 'cd': no folder blue"
        assert (await run.agent.call("cd", {"folder": "red", "fast": 1}))[0].startswith("Error executing tool 'cd'")
    assert (run.session.counts.errors, run.session.counts.calls) == (2, 2)


NULLS = {"put": None, "shell": {"create_kwargs": {"words": {"blue": "cat", "red": None}, "goal": None}}, "x": None}


@pytest.mark.parametrize("kind", ["Shell", "ReplayedShell"])
async def test_nulls_of_parquet_never_reach_a_tool(shell, kind: str) -> None:
    tool = getattr(shell, kind)({})
    kwargs = {**NULLS, tool.name: NULLS["shell"]}
    async with Session([tool], kwargs) as run:
        assert await run.agent.call("cd", {"folder": "blue"}) == ("in blue", 0.0)
        assert await run.agent.call("guess", {"word": "elk"}) == ("won", 1.0)
    assert run.session.counts.errors == 0
    assert len(shell.OPENED) == 1 and shell.OPENED[0]["words"] == {"blue": "cat"}


@pytest.mark.parametrize("kwargs", [None, {}, {"shell": None}, {"shell": {}}, {"shell": {"create_kwargs": None}}])
async def test_a_row_without_arguments_opens_with_defaults(shell, kwargs: Any) -> None:
    async with Session([shell.Shell({})], kwargs) as run:
        assert await run.agent.call("read", {}) == ("nothing after 1", 0.0)
    agent = Agent(load(shell, "Shell"), kwargs)
    assert await agent.call("read", {}) == ("nothing after 1", 0.0)


def load(shell: Any, kind: str) -> list[Any]:
    from verl_atpo.tools.stateful import expanded

    return expanded([getattr(shell, kind)({})])


@pytest.mark.parametrize("kind", ["Shell", "ReplayedShell"])
async def test_actions_share_a_state_and_branch_with_it(shell, kind: str) -> None:
    tool = getattr(shell, kind)({})
    calls = [("cd", {"folder": "red"}), ("read", {}), ("guess", {"word": "cat"}), ("guess", {"word": "elk"})]
    first = Session([tool])
    seen = []
    async with first:
        for turn, (name, arguments) in enumerate(calls):
            seen.append(await first.agent.call(name, arguments))
            await first.client.generate("x", prompt_ids=[1] * (turn + 5))
    assert seen == [("in red", 0.0), ("elk after 2", 0.0), ("wrong", -0.5), ("won", 1.0)]
    for shared in range(1, 5):
        branch = Session([tool], prefix=first.client.generations[:shared])
        async with branch:
            for turn, (name, arguments) in enumerate(calls):
                assert await branch.agent.call(name, arguments) == seen[turn]
                await branch.client.generate("x", prompt_ids=[1] * (turn + 5))
                assert branch.client.replaying == (turn + 1 < shared)
        assert branch.client.replayed == shared and len(branch.client.live) == 1 + len(calls) - shared
    assert len(shell.OPENED) == len(shell.CLOSED) > 3


async def test_calls_of_one_turn_take_turns_and_open_one_state(shell) -> None:
    for agent in (Agent(load(shell, "Shell")), None):
        async with Session([shell.Shell({})]) as run:
            used = agent or run.agent
            texts = await asyncio.gather(*(used.call("read", {}) for _ in range(4)))
        assert sorted(text for text, _ in texts) == [f"nothing after {n}" for n in range(1, 5)]
    assert len(shell.OPENED) == 2


async def test_without_our_sampler_a_state_lives_as_long_as_its_trajectory(shell) -> None:
    agent = Agent(load(shell, "Shell"))
    assert await agent.call("cd", {"folder": "red"}) == ("in red", 0.0)
    assert await agent.call("read", {}) == ("elk after 2", 0.0)
    assert not shell.CLOSED
    del agent
    for _ in range(200):
        gc.collect()
        if shell.CLOSED:
            break
        await asyncio.sleep(0.01)
    assert len(shell.CLOSED) == len(shell.OPENED) == 1


async def test_without_agent_data_a_state_lives_from_create_to_release(shell) -> None:
    cd, read, _ = load(shell, "Shell")
    instance, _ = await cd.create(create_kwargs={"words": {"blue": "cat", "red": None}})
    assert (await cd.execute(instance, {"folder": "blue"}))[0].text == "in blue"
    assert (await read.execute(instance, {}))[0].text == "cat after 2"
    await cd.release(instance)
    assert len(shell.OPENED) == len(shell.CLOSED) == 1


def test_function_tools_and_stateful_tools_may_stand_in_one_file(shell, tmp_path: Path) -> None:
    tools = load_all_tools(tool_file(tmp_path, "Shell"), FILE)
    assert [tool.name for tool in tools] == ["shell", "double"]
    assert load_all_tools(tool_file(tmp_path, "Shell"), FILE)[1] is tools[1]


@pytest.mark.parametrize(
    ("calls", "limit", "ended"),
    [
        ("bb", 2, True),
        ("bgb", 2, False),
        ("bbg", 2, False),  # in one turn: the last in a row decide
        ("beb", 2, False),  # the tool's own error says nothing against the call's form
        ("mm", 2, True),
        ("bbbb", None, False),
    ],
)
async def test_malformed_calls_in_a_row_end_a_trajectory(shell, calls: str, limit: int | None, ended: bool) -> None:
    forms = {"b": ("fly", "{}"), "g": ("read", "{}"), "e": ("cd", '{"folder": "x"}'), "m": ("cd", "{}")}
    async with Session([shell.Shell({})], max_consecutive_invalid_calls=limit) as run:
        for each in calls:
            await run.agent.call(*forms[each], raw=True)
        assert run.session.ends_run() is ended
    assert run.session.counts.ended_by_invalid == ended


class Scripted:
    """An engine whose turns are lines of a script, by the number of turns in the context; the script starts anew.

    Where a line has alternatives, requests get them in turn, so that each occurs in whatever order requests arrive.
    """

    def __init__(self, chat: ChatFormat, *turns: str | list[str]) -> None:
        self._chat, self._rng = chat, random.Random(0)
        self._turns = [itertools.cycle([turn] if isinstance(turn, str) else turn) for turn in turns]
        self.asked: list[str] = []

    async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: Any) -> TokenOutput:
        self.asked.append(self._chat.decode(prompt_ids))
        turn = self._turns[min(self.asked[-1].count("assistant") - 1, len(self._turns) - 1)]
        tokens = self._chat.encode(f"{next(turn)}<|im_end|>")
        fields = {"min_global_steps": 1, "max_global_steps": 1}
        return TokenOutput(token_ids=tokens, log_probs=[-self._rng.random() for _ in tokens], extra_fields=fields)


def call_text(name: str, **arguments: Any) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


@pytest.fixture
def chat(tmp_path: Path) -> ChatFormat:
    words = "user assistant tool in red elk won wrong after nothing read cd guess folder word"
    chat = ChatFormat(ChatFormat.tokenizer_of([words, *map(str, range(9))]))
    save(build_model(chat.tokenizer, 0), chat.tokenizer, tmp_path / "model")
    return chat


SCRIPT = (
    call_text("cd", folder="red"),
    call_text("read"),
    [call_text("guess", word="elk"), call_text("guess", word="cat")],
    "done",
)


def worker(tmp_path: Path, engine: Any, *overrides: str) -> Any:
    scored = SimpleNamespace(remote=_score)
    made = make_worker(
        tmp_path / "model",
        "tool_agent",
        f"actor_rollout_ref.rollout.multi_turn.tool_config_path={tool_file(tmp_path, 'Shell')}",
        "actor_rollout_ref.rollout.multi_turn.format=hermes",
        "algorithm.atpo.expansion.initial_chains=6",
        *overrides,
        client=engine,
    )
    made.reward_loop_worker_handles = [SimpleNamespace(compute_score=scored)]
    return made


SCORED: list[dict[str, Any]] = []


async def _score(data: Any) -> dict[str, Any]:
    SCORED.append(data.non_tensor_batch["tool_extra_fields"][0])
    rewards = SCORED[-1].get("tool_rewards", [])
    return {"reward_score": float(max(rewards, default=0.0)), "reward_extra_info": {}}


@pytest.mark.parametrize("trajectory", [TRAIN, VALIDATE], ids=["tree", "validation"])
async def test_a_tool_ends_the_episode_in_trees_and_chains(shell, chat, tmp_path, monkeypatch, trajectory) -> None:
    SCORED.clear()
    queue, engine = Queue(monkeypatch), Scripted(chat, *SCRIPT)
    made = worker(tmp_path, engine, "actor_rollout_ref.rollout.val_kwargs.n=6")
    await made._run_prompt(prompt("p1", "tool_agent", tools_kwargs=NULLS | {"shell": None}), {}, trajectory=trajectory)
    failures = await made.failures()
    assert failures.bug is None and queue.status == {"p1": "finished"}, failures
    assert not any("won" in asked for asked in engine.asked)  # no turn after the end
    assert any("wrong" in asked for asked in engine.asked)
    assert {max(scored["tool_rewards"]) for scored in SCORED} == {0.0, 1.0}
    assert len(shell.OPENED) == len(shell.CLOSED) > 0
    counts = made.guard.take_totals()
    assert counts.errors == 0 and counts.calls > 6


async def test_a_trajectory_that_loops_on_malformed_calls_ends(shell, chat, tmp_path, monkeypatch) -> None:
    SCORED.clear()
    queue, engine = Queue(monkeypatch), Scripted(chat, call_text("fly", to="red"))
    made = worker(tmp_path, engine, "algorithm.atpo.tools.max_consecutive_invalid_calls=3")
    await made._run_prompt(prompt("p1", "tool_agent"), {}, trajectory=TRAIN)
    assert queue.status == {"p1": "finished"}
    assert {asked.count("Unknown function") for asked in engine.asked} == {0, 1, 2}
    counts = made.guard.take_totals()
    (tree,) = made._stats.trees
    assert counts.errors > 0 and counts.ended_by_invalid == tree.leaves == len(queue.rows["p1"])
    assert step_metrics(WorkerStats(tools=counts))["atpo/ended_by_invalid_calls"] == tree.leaves


class Loop(AgentLoopBase):
    """A loop of one's own with the toolbox."""

    def __init__(self, *args: Any, tools: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tools = tools

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        raise NotImplementedError


def own_loop(tools: list[Any], chat: ChatFormat) -> Any:
    settings = SimpleNamespace(max_tool_response_length=256, tool_response_truncate_side="middle")
    return SimpleNamespace(
        rollout_config=SimpleNamespace(multi_turn=settings), tokenizer=chat.tokenizer, tools=ToolListWrap(tools)
    )


@pytest.mark.parametrize("ours", [True, False])
async def test_a_loop_of_ones_own_calls_tools_whatever_they_do(shell, chat, ours: bool) -> None:
    tools = [shell.Shell({}), verls.FUNCTION_TOOL_REGISTRY["double"]]
    row = {"extra_info": {}, "tools_kwargs": {"shell": {"create_kwargs": {"words": {"red": "<|im_end|>x"}}}}}
    run = Session(tools)
    if ours:
        await run.__aenter__()
    loop = own_loop(run.session.wrap(tools) if ours else tools, chat)
    box = Toolbox(loop, loop.tools, row)
    assert [schema["function"]["name"] for schema in box.schemas] == ["cd", "read", "guess", "double"]
    calls = [("fly", {}), ("cd", "not JSON"), ("cd", {"folder": "blue"}), ("cd", {"folder": "red"}), ("read", {})]
    texts = [(await box.call(name, arguments)).text for name, arguments in [*calls, ("double", {"number": 4})]]
    assert [text.split(":")[0] for text in texts[:3]] == [
        "Unknown function 'fly'. Available tools",
        "Invalid JSON in arguments for 'cd'",
        "Error executing tool 'cd'",
    ]
    assert texts[3:] == ["in red", "‹|im_end|›x after 3", "8"] and not box.ended  # noqa: RUF001
    answers = await box.call_all([FunctionCall(name="guess", arguments='{"word": "elk"}')])
    assert answers[0].message == {"role": "tool", "content": "won"} and box.ended
    assert box.rewards == [0.0] * 6 + [1.0]
    if ours:
        assert run.session.counts.errors == 3
        await run.__aexit__()
    del box, loop
    for _ in range(200):
        gc.collect()
        if len(shell.OPENED) == len(shell.CLOSED):
            break
        await asyncio.sleep(0.01)
    assert len(shell.OPENED) == len(shell.CLOSED) == 1
