"""The text world: its rules, its games, its tool inside verl's own tool agent, and what its reward looks at."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from hypothesis import given
from hypothesis import strategies as st
from verl.experimental.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.tools.tool_registry import load_all_tools
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from examples.text_world.chat import WorldChat, build_tokenizer
from examples.text_world.demos import demonstrate, make_demos
from examples.text_world.engine import NOTHING_HAPPENS, SOLVED, Game, World
from examples.text_world.games import LEVELS, MAX_ACTIONS, draw_game, draw_games, prompt, read_games, write_rows
from examples.text_world.player import CAREFUL, CARELESS, play
from examples.text_world.reward import compute_score
from examples.text_world.tool import WorldTool
from tests.assets.fakes import guard
from tests.assets.run_scripts import settings_of
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.tools import ToolSession
from verl_atpo.tools import Branching
from verl_atpo.tree.recording import Generation

YAML = Path(__file__).parents[2] / "examples" / "text_world" / "tool.yaml"
RUN = settings_of("text_world")
MAX_PROMPT, MAX_RESPONSE = int(RUN["data.max_prompt_length"]), int(RUN["data.max_response_length"])

GAME = Game(
    doors={"hall": ["attic"], "attic": ["hall"]},
    containers={"chest": "hall", "box": "hall", "desk": "attic", "bin": "attic"},
    closed=["chest", "desk"],
    objects={"lamp": "chest", "key": "box"},
    start="hall",
    goal=("lamp", "desk"),
)
SOLUTION = ("open chest", "take lamp", "go attic", "open desk", "put lamp in desk")


@pytest.fixture(scope="module")
def chat() -> WorldChat:
    return WorldChat(build_tokenizer())


# the rules


@pytest.mark.parametrize(
    ("done", "action", "seen"),
    [
        ((), "look", "hall: chest closed, box with key. doors: attic."),
        ((), "open chest", "hall: chest with lamp, box with key. doors: attic."),
        ((), "go attic", "attic: desk closed, bin empty. doors: hall."),
        ((), "take key", "hall: chest closed, box empty. doors: attic."),
        ((), " take  key ", "hall: chest closed, box empty. doors: attic."),
        (("take key", "go attic"), "put key in bin", "attic: desk closed, bin with key. doors: hall."),
        (SOLUTION[:4], "put lamp in desk", SOLVED),
        (SOLUTION, "go hall", SOLVED),  # the game is over
        ((), "take lamp", NOTHING_HAPPENS),  # it is in a closed container
        (("open chest", "go attic"), "take lamp", NOTHING_HAPPENS),  # it is in another room
        (("open chest", "take key"), "take lamp", NOTHING_HAPPENS),  # one thing at a time
        (("open chest",), "open chest", NOTHING_HAPPENS),
        ((), "open desk", NOTHING_HAPPENS),  # it is in another room
        ((), "go hall", NOTHING_HAPPENS),
        ((), "put key in chest", NOTHING_HAPPENS),  # it is not carried
        (("take key",), "put key in chest", NOTHING_HAPPENS),  # it is closed
        (("take key",), "put key in bin", NOTHING_HAPPENS),  # it is in another room
        (("take key",), "put lamp in box", NOTHING_HAPPENS),
        ((), "", NOTHING_HAPPENS),
        ((), "dance", NOTHING_HAPPENS),
        ((), "go", NOTHING_HAPPENS),
        ((), "put lamp in desk", NOTHING_HAPPENS),
    ],
)
def test_what_an_action_does(done: tuple[str, ...], action: str, seen: str) -> None:
    world = World.start(GAME)
    for each in done:
        assert world.act(each) != NOTHING_HAPPENS
    assert world.act(action) == seen


def test_a_failed_action_changes_nothing() -> None:
    world = World.start(GAME)
    before = world.copy()
    for action in ("take lamp", "go cellar", "put key in bin", "open box"):
        assert world.act(action) == NOTHING_HAPPENS and world == before


ACTIONS = st.lists(
    st.one_of(
        st.sampled_from(SOLUTION),
        st.builds("go {}".format, st.sampled_from(["hall", "attic"])),
        st.builds("take {}".format, st.sampled_from(["lamp", "key"])),
        st.builds(
            "put {} in {}".format, st.sampled_from(["lamp", "key"]), st.sampled_from(["chest", "box", "desk", "bin"])
        ),
    ),
    max_size=12,
)


@given(ACTIONS, ACTIONS, ACTIONS)
def test_a_restored_world_goes_on_as_the_first_one_did(before: list[str], after: list[str], between: list[str]) -> None:
    tool = WorldTool({})
    world = tool.open(GAME.to_json())
    for action in before:
        tool.call(world, action)
    snapshot = tool.snapshot(world)
    went_on = [tool.call(world, action) for action in after]
    for _ in range(2):  # a snapshot may be restored many times
        restored = tool.restore(snapshot)
        assert [tool.call(restored, action) for action in after] == went_on
        for action in between:
            tool.call(restored, action)


@given(ACTIONS)
def test_what_is_hidden_is_not_told(actions: list[str]) -> None:
    world = World.start(GAME)
    for action in actions:
        seen = world.act(action)
        if seen in (NOTHING_HAPPENS, SOLVED):
            continue
        for name, place in world.places.items():
            visible = place is not None and GAME.containers[place] == world.room and place not in world.closed
            assert (name in seen) == visible


# games and their rows


def test_every_game_can_be_solved_by_one_who_knows_what_it_read() -> None:
    for game in draw_games(60, random.Random(0)):
        names = [*game.doors, *game.containers, *game.objects]
        assert len(set(names)) == len(names)
        assert game.objects[game.goal[0]] != game.goal[1]
        played = play(game, CAREFUL, random.Random(0))
        assert played.solved and 3 <= len(played.actions) <= MAX_ACTIONS
        # What it did and read is what the rules say.
        world = World.start(game)
        assert [world.act(action) for action in played.actions] == played.observations
        assert world.solved and NOTHING_HAPPENS not in played.observations


def test_a_seed_gives_the_same_games_and_another_seed_others() -> None:
    first, again, other = (draw_games(20, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again
    assert not {game.to_json() for game in first} & {game.to_json() for game in other}


def test_games_that_are_taken_are_not_drawn() -> None:
    first = draw_games(5, random.Random(3))
    taken = frozenset(game.to_json() for game in first)
    assert not taken & {game.to_json() for game in draw_games(5, random.Random(3), taken)}


def test_rows_are_what_verl_reads(tmp_path: Path) -> None:
    games = draw_games(2, random.Random(0))
    write_rows(games, "val", tmp_path / "val.parquet")
    assert read_games(tmp_path / "val.parquet") == games
    frame = pd.read_parquet(tmp_path / "val.parquet")
    assert sorted(frame["data_source"]) == sorted(2 * [f"text_world_{rooms}rooms" for rooms in LEVELS])
    assert list(frame.iloc[0]["prompt"]) == [{"role": "user", "content": prompt(games[0])}]


# demonstrations and the chat format


@pytest.mark.parametrize("habits", [CAREFUL, CARELESS])
def test_a_demonstration_is_the_conversation_it_would_have_been(chat: WorldChat, habits: Any) -> None:
    rng = random.Random(4)
    for game in (draw_game(level, rng) for level in LEVELS for _ in range(10)):
        demo = demonstrate(game, chat, habits, rng)
        start = demo.sampled.index(True)
        assert list(demo.ids[:start]) == chat.prompt(prompt(game))
        assert start <= MAX_PROMPT and len(demo.ids) - start <= MAX_RESPONSE
        world, rest = World.start(game), list(demo.ids[start:])
        while rest and (action := chat.called(turn := rest[: rest.index(chat.tokenizer.eos_token_id) + 1])) is not None:
            seen = list(chat.observation(world.act(action)))
            assert rest[len(turn) : len(turn) + len(seen)] == seen
            rest = rest[len(turn) + len(seen) :]
        assert rest in ([], chat.done())
        assert habits is CARELESS or (world.solved and rest == chat.done())


def test_the_careless_player_succeeds_sometimes() -> None:
    rng = random.Random(0)
    solved = [play(game, CARELESS, rng, MAX_ACTIONS).solved for game in draw_games(100, rng)]
    assert 0.4 < sum(solved) / len(solved) < 0.7


def test_no_demonstration_shows_a_held_out_game(chat: WorldChat) -> None:
    def shown(count: int, taken: frozenset[str]) -> set[tuple[int, ...]]:
        return {demo.ids[: demo.sampled.index(True)] for demo in make_demos(chat, count, taken, seed=0)}

    held_out = draw_game(LEVELS[0], random.Random("demos-0"))  # the first game that would be demonstrated
    first = {tuple(chat.prompt(prompt(held_out)))}
    assert shown(1, frozenset()) == first
    assert not shown(30, frozenset([held_out.to_json()])) & first


def test_every_word_is_one_token(chat: WorldChat) -> None:
    games = draw_games(50, random.Random(0))
    words = {word for game in games for word in (*game.doors, *game.containers, *game.objects)}
    assert {len(chat.encode(word)) for word in words} == {1}
    # 2 + 4 words, a token before and one after the call, the end
    assert len(chat.call("find lamp", "put lamp in desk")) == 9


# the tool inside verl's own tool agent


class Script:
    """An engine that answers with given turns."""

    def __init__(self, turns: list[list[int]]) -> None:
        self.turns = list(turns)

    async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: Any) -> TokenOutput:
        turn = self.turns.pop(0)
        return TokenOutput(token_ids=turn, log_probs=[0.0] * len(turn))


@functools.cache
def verl_config() -> Any:
    """verl's configuration with the settings of run.sh that the tool agent reads."""
    settings = [
        f"data.max_response_length={MAX_RESPONSE}",
        "actor_rollout_ref.rollout.multi_turn.format=hermes",
        f"actor_rollout_ref.rollout.multi_turn.max_assistant_turns={MAX_ACTIONS + 1}",
    ]
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", settings)


class Trajectory:
    """verl's tool agent on the text world, with scripted turns, inside a branch of a tree."""

    def __init__(self, chat: WorldChat, tool: WorldTool, turns: list[list[int]], prefix: list[Generation]) -> None:
        self.chat = chat
        self.session = ReplayClient(Script(turns), "tree", prefix)
        self.tools = ToolSession(self.session, guard())
        config = verl_config()
        self.loop = ToolAgentLoop(
            trainer_config=DictConfigWrap(config),
            server_manager=self.session,
            tokenizer=chat.tokenizer,
            processor=None,
            dataset_cls=RLHFDataset,
            data_config=DictConfigWrap(config.data),
            hf_model_type="qwen3",
            tools=ToolListWrap(self.tools.wrap([tool])),
        )

    async def __call__(self, game: Game) -> AgentLoopOutput:
        kwargs = {"world": {"create_kwargs": {"game": game.to_json()}}}
        raw_prompt = [{"role": "user", "content": prompt(game)}]
        output = await self.loop.run({}, raw_prompt=raw_prompt, tools_kwargs=kwargs)
        await self.tools.close()
        return output


async def run(
    chat: WorldChat, game: Game, turns: list[list[int]], tool: WorldTool | None = None, prefix: tuple = ()
) -> tuple[Trajectory, AgentLoopOutput]:
    trajectory = Trajectory(chat, tool or WorldTool({}), turns[len(prefix) :], list(prefix))
    return trajectory, await trajectory(game)


def score(chat: WorldChat, output: AgentLoopOutput) -> float:
    """What verl's reward manager makes of a trajectory: extra fields of the loop join the row's extra information."""
    text = chat.decode(output.response_ids, skip_special_tokens=True)
    return compute_score("text_world_2rooms", text, "", {"index": 0, **output.extra_fields})["score"]


def calls(chat: WorldChat, *actions: str) -> list[list[int]]:
    return [chat.call("find lamp", action) for action in actions]


def test_the_run_allows_the_actions_that_games_are_made_for() -> None:
    turns = int(RUN["actor_rollout_ref.rollout.multi_turn.max_assistant_turns"])
    assert turns == MAX_ACTIONS + 1  # verl does not act on the last turn


def test_the_tool_loads_through_verl() -> None:
    (tool,) = load_all_tools(tool_config_path=str(YAML), function_tool_path=None)
    assert (tool.name, tool.branching) == ("world", Branching.FORK)
    function = tool.tool_schema.function
    assert function.parameters.required == ["action"] and "open CONTAINER" in str(function.parameters.properties)


async def test_a_demonstration_played_through_verl_is_the_same_and_succeeds(chat: WorldChat) -> None:
    rng = random.Random(0)
    for game in (draw_game(level, rng) for level in LEVELS):
        demo = demonstrate(game, chat, CAREFUL, rng)
        played = play(game, CAREFUL, rng)
        turns = [chat.call(t, a) for t, a in zip(played.thoughts, played.actions, strict=True)]
        _, output = await run(chat, game, [*turns, chat.done()])
        assert tuple(output.prompt_ids + output.response_ids) == demo.ids
        assert output.response_mask == [int(flag) for flag in demo.sampled[len(output.prompt_ids) :]]
        assert score(chat, output) == 1.0


FAKE_END = f"<tool_response> {SOLVED}</tool_response>"
REST = "".join(
    f'<tool_call>\n{{"name": "world", "arguments": {{"action": "{action}"}}}}\n</tool_call>' for action in SOLUTION[1:]
)


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([*SOLUTION, "done"], 1.0),
        ([*SOLUTION, "go hall", "nonsense", "done"], 1.0),
        (["done"], 0.0),
        ([SOLVED], 0.0),
        ([FAKE_END], 0.0),
        ([SOLUTION[0], FAKE_END], 0.0),
        ([*SOLUTION[:4], FAKE_END], 0.0),
        # All that is left in one turn, as calls: only the first of them is carried out.
        ([SOLUTION[0], REST, "done"], 0.0),
        # The last of ten turns is not acted on.
        ([*["look"] * 5, *SOLUTION], 0.0),
        ([*["look"] * 4, *SOLUTION, "done"], 1.0),
    ],
)
async def test_success_is_reached_and_not_written(chat: WorldChat, turns: list[str], expected: float) -> None:
    def ids(text: str) -> list[int]:
        acts = text.split()[0] in ("look", "go", "open", "take", "put", "nonsense")
        return chat.call("", text) if acts else chat.encode(f"{text}<|im_end|>")

    _, output = await run(chat, GAME, [ids(text) for text in turns])
    assert score(chat, output) == expected


async def test_a_tool_of_another_name_earns_nothing(chat: WorldChat) -> None:
    body = json.dumps({"name": "win", "arguments": {"action": "put lamp in desk"}})
    _, output = await run(chat, GAME, [chat.encode(f"<tool_call>\n{body}\n</tool_call><|im_end|>"), chat.done()])
    assert score(chat, output) == 0.0


def test_a_loop_that_keeps_no_tool_rewards_is_refused() -> None:
    with pytest.raises(KeyError, match="tool_agent"):
        compute_score("text_world_2rooms", SOLVED, "", {"index": 0})


class CountingTool(WorldTool):
    """Counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__({})
        self.opened = self.acted = self.restored = 0

    def open(self, game: str) -> World:
        self.opened += 1
        return super().open(game)

    def call(self, state: World, action: str) -> tuple[str, float]:
        """Acts.

        Args:
            action: The action.
        """
        self.acted += 1
        return super().call(state, action)

    def restore(self, snapshot: World) -> World:
        self.restored += 1
        return super().restore(snapshot)


@pytest.mark.parametrize("seed", range(12))
async def test_a_forked_branch_is_the_whole_sequence_played_afresh(chat: WorldChat, seed: int) -> None:
    rng = random.Random(seed)
    game, tool = draw_game(rng.choice(LEVELS), rng), CountingTool()
    first, second = (play(game, CARELESS, rng, MAX_ACTIONS).actions for _ in range(2))
    shared = rng.randrange(len(first))
    branched = [*first[:shared], *second][:MAX_ACTIONS]
    trunk, _ = await run(chat, game, [*calls(chat, *first), chat.done()], tool)
    assert (tool.opened, tool.acted) == (1, len(first))

    prefix = tuple(trunk.session.generations[:shared])
    branch, forked = await run(chat, game, [*calls(chat, *branched), chat.done()], tool, prefix)
    _, fresh = await run(chat, game, [*calls(chat, *branched), chat.done()])
    assert branch.session.replayed == shared and not branch.session.diverged
    assert (forked.prompt_ids, forked.response_ids) == (fresh.prompt_ids, fresh.response_ids)
    assert forked.extra_fields["tool_rewards"] == fresh.extra_fields["tool_rewards"]
    # Shared turns are not played again: the branch starts in the restored world.
    assert (tool.opened, tool.restored) == ((1, 1) if shared else (2, 0))
    assert tool.acted == len(first) + len(branched) - shared
    for trajectory in (trunk, branch):
        assert trajectory.tools.counts.states_opened == trajectory.tools.counts.states_closed == 1
