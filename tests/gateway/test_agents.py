"""Agents of every kind: how they end, what they leave, and that nothing of them goes on."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time

import openai
import psutil
import pytest

from tests.assets.scripted_engine import ScriptedEngine, make_loop, run
from verl_atpo.deadlines.activity import Activity
from verl_atpo.failure import ToolOutage, TrajectoryBug
from verl_atpo.gateway.agents import make_agent
from verl_atpo.gateway.service import Crashes
from verl_atpo.gateway.settings import GatewayConfig
from verl_atpo.settings import ConfigError

ASK = """
import json, os, openai
task = json.load(open(os.environ["TASK_FILE"]))
client = openai.OpenAI()
answer = client.chat.completions.create(model=os.environ["OPENAI_MODEL"], messages=task["messages"])
"""


def script(path, text):
    path.write_text(ASK + text)
    return [sys.executable, str(path)]


def ask(task, base_url, api_key, **options):
    client = openai.OpenAI(base_url=base_url, api_key=api_key, **options)
    return client.chat.completions.create(model="m", messages=task.messages).choices[0].message.content


@pytest.mark.parametrize(
    ("result", "reward", "extra"),
    [
        (0.25, 0.25, {}),
        (True, 1.0, {}),
        ({"reward": 1, "steps": 4}, 1.0, {"steps": 4}),
        ("text", None, None),
        (None, None, None),
        ({"steps": 4}, None, None),
    ],
)
async def test_a_number_is_the_reward_and_all_else_is_left_to_the_reward_function(result, reward, extra):
    def agent(task, base_url, api_key):
        ask(task, base_url, api_key)
        return result

    (row,) = await run(make_loop(ScriptedEngine(["Yes."]), agent))
    assert row.reward_score == reward
    assert row.extra_fields.get("reward_extra_info") == extra
    assert row.extra_fields["agent_result"] == result


async def test_a_reward_that_is_no_number_stops_the_run():
    def agent(task, base_url, api_key):
        ask(task, base_url, api_key)
        return float("nan")

    with pytest.raises(TrajectoryBug, match="reward is nan"):
        await run(make_loop(ScriptedEngine(["Yes."]), agent))


async def test_the_task_of_a_function_is_its_data_row():
    seen = {}

    def agent(task, base_url, api_key):
        ask(task, base_url, api_key)
        seen.update(text=task.text, extra=task.extra_info, truth=task.row["reward_model"]["ground_truth"])

    row = {"extra_info": {"index": 3}, "reward_model": {"ground_truth": "Norway"}}
    await run(make_loop(ScriptedEngine(["Yes."]), agent), "Where?", **row)
    assert seen == {"text": "Where?", "extra": {"index": 3}, "truth": "Norway"}


async def test_a_row_may_name_its_agent(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "import openai\n"
        "def solve(task, base_url, api_key):\n"
        "    client = openai.OpenAI(base_url=base_url, api_key=api_key)\n"
        "    client.chat.completions.create(model='m', messages=task.messages)\n"
        "    return 0.5\n"
    )
    (row,) = await run(make_loop(ScriptedEngine(["Yes."])), agent=f"{file}:solve")
    assert row.reward_score == 0.5


async def test_a_command_gets_its_task_and_leaves_its_result(tmp_path):
    command = script(
        tmp_path / "agent.py",
        "print('talk')\n"
        "open('notes.txt', 'w').write('in a folder of its own')\n"
        "left = sorted(name for name in os.environ if 'TOKEN' in name or name.startswith('RAY'))\n"
        "said = answer.choices[0].message.content\n"
        "result = {'reward': 1.0, 'said': said, 'keys': sorted(task), 'secret': left}\n"
        "json.dump(result, open(os.environ['RESULT_FILE'], 'w'))\n",
    )
    row = {"extra_info": {"index": 3}, "reward_model": {"ground_truth": "Norway"}}
    (output,) = await run(make_loop(ScriptedEngine(["Yes."]), command=command), **row)
    assert output.reward_score == 1.0
    result = output.extra_fields["agent_result"]
    assert result["said"] == "Yes."
    assert result["keys"] == ["extra_info", "messages", "text"]  # without the answer: a shell could read it
    assert result["secret"] == []


async def test_a_crash_is_scored_with_its_last_words_kept(tmp_path):
    command = script(tmp_path / "agent.py", "raise KeyError('weather')\n")
    (row,) = await run(make_loop(ScriptedEngine(["Yes."]), command=command))
    assert row.reward_score is None
    assert "KeyError: 'weather'" in row.extra_fields["agent_crash"]

    def agent(task, base_url, api_key):
        ask(task, base_url, api_key)
        raise SystemExit(3)

    (row,) = await run(make_loop(ScriptedEngine(["Yes."]), agent))
    assert "SystemExit" in row.extra_fields["agent_crash"]


async def test_a_crash_stops_the_run_where_a_setting_says_so(tmp_path):
    command = script(tmp_path / "agent.py", "raise KeyError('weather')\n")
    with pytest.raises(TrajectoryBug, match="KeyError: 'weather'"):
        await run(make_loop(ScriptedEngine(["Yes."]), command=command, on_crash="stop"))


KILLED = """
import os, pathlib, signal, sys
starts = pathlib.Path(sys.argv[1])
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
if len(starts.read_text()) <= int(sys.argv[2]):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("shell", [False, True], ids=["signal", "code of a shell"])
async def test_an_agent_that_is_killed_before_it_asks_starts_again(tmp_path, shell):
    path = tmp_path / "agent.py"
    path.write_text(KILLED + ASK)
    command = [sys.executable, str(path), str(tmp_path / "starts"), "2"]
    if shell:
        command = ["sh", "-c", " ".join(command) + "; exit $?"]
    (row,) = await run(make_loop(ScriptedEngine(["Yes."]), command=command))
    assert row.extra_fields["agent_crash"] is None and row.extra_fields["agent_calls"] == 1
    assert (tmp_path / "starts").read_text() == "xxx"


async def test_an_agent_that_is_always_killed_before_it_asks_is_an_outage(tmp_path):
    path = tmp_path / "agent.py"
    path.write_text(KILLED + ASK)
    command = [sys.executable, str(path), str(tmp_path / "starts"), "100"]
    with pytest.raises(ToolOutage, match="killed 3 times before it asked"):
        await run(make_loop(ScriptedEngine(["Yes."]), command=command))


async def test_an_agent_that_is_killed_after_a_call_is_scored_once(tmp_path):
    command = script(tmp_path / "agent.py", "import signal\nos.kill(os.getpid(), signal.SIGKILL)")
    (row,) = await run(make_loop(ScriptedEngine(["Yes.", "Again."]), command=command, max_crash_share=1.0))
    assert row.extra_fields["agent_calls"] == 1 and "exit code -9" in row.extra_fields["agent_crash"]


async def test_an_agent_that_never_asks_is_a_bug():
    async def silent(task, base_url, api_key):
        return 1.0

    with pytest.raises(TrajectoryBug, match="without asking the model"):
        await run(make_loop(ScriptedEngine([]), silent))

    def dies(task, base_url, api_key):
        raise ImportError("no module named harness")

    with pytest.raises(TrajectoryBug, match="no module named harness"):
        await run(make_loop(ScriptedEngine([]), dies))


def test_too_many_crashes_stop_the_run():
    crashes = Crashes(0.5)
    for number in range(20):
        crashes.count("boom" if number % 2 else None)  # 10 of 20: as many as may
    crashes.count(None)
    crashes.count("boom")  # 11 of 22
    with pytest.raises(TrajectoryBug, match=r"12 of 23 agents crashed.*boom"):
        crashes.count("boom")


async def test_an_agent_that_takes_too_long_is_ended_and_scored():
    cancelled = threading.Event()

    async def agent(task, base_url, api_key):
        await asyncio.to_thread(ask, task, base_url, api_key)
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    started = time.monotonic()
    (row,) = await run(make_loop(ScriptedEngine(["Yes."]), agent, timeout_s=1.0))
    assert row.extra_fields["agent_late"] is True
    assert cancelled.wait(1)
    assert time.monotonic() - started < 5

    async def mute(task, base_url, api_key):
        await asyncio.sleep(3600)

    with pytest.raises(ToolOutage, match="timeout_s"):
        await run(make_loop(ScriptedEngine([]), mute, timeout_s=0.2))


async def test_a_plain_function_that_goes_on_is_answered_no_more(caplog):
    refused = threading.Event()

    def agent(task, base_url, api_key):
        ask(task, base_url, api_key)
        time.sleep(1.0)
        try:
            ask(task, base_url, api_key, max_retries=0)
        except openai.AuthenticationError:
            refused.set()

    (row,) = await run(make_loop(ScriptedEngine(["Yes.", "Late."]), agent, timeout_s=0.5, grace_s=0.1))
    assert row.extra_fields["agent_calls"] == 1
    assert "still runs after its end" in caplog.text and "time.sleep(1.0)" in caplog.text
    assert await asyncio.to_thread(refused.wait, 3)


async def test_nothing_of_a_command_survives_it(tmp_path):
    children = (
        "import subprocess, sys, time\n"
        "sleeper = [sys.executable, '-c', 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)']\n"
        "own = subprocess.Popen(sleeper)\n"
        "daemon = subprocess.Popen(sleeper, start_new_session=True)\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{own.pid}} {{daemon.pid}} {{os.getpid()}}')\n"
    )
    for ending in ("", "signal = __import__('signal'); signal.signal(15, signal.SIG_IGN); time.sleep(600)\n"):
        command = script(tmp_path / "agent.py", children + ending)
        await run(make_loop(ScriptedEngine(["Yes."]), command=command, timeout_s=15.0, grace_s=0.2))
        for pid in map(int, (tmp_path / "pids").read_text().split()):
            assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_output_without_end_fills_no_disk(tmp_path):
    command = script(
        tmp_path / "agent.py", "for _ in range(3000): print('x' * 1000)\nprint('the end')\nraise SystemExit(2)\n"
    )
    (row,) = await run(make_loop(ScriptedEngine(["Yes."]), command=command, output_bytes=1000))
    assert row.extra_fields["agent_crash"].startswith("exit code 2")
    assert "the end" in row.extra_fields["agent_crash"]
    assert len(row.extra_fields["agent_crash"]) < 2500


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "agent=None cannot work"),
        ({"agent": "no_colon"}, "expected package.module:function"),
        ({"agent": "no.such.module:f"}, "No module named"),
        ({"agent": "json:no_such_function"}, "no_such_function"),
        ({"agent": "json:dumps"}, "expected a function of"),
        ({"agent": "/no/such/file.py:f"}, "no file /no/such/file.py"),
        ({"command": []}, "expected a program"),
    ],
)
def test_an_agent_that_cannot_be_run_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_agent(GatewayConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"agent": "a:b", "command": "c"}, "expected one of them"),
        ({"ignore": ["("]}, "ignore='\\('"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"on_crash": "shrug"}, "on_crash"),
        ({"max_call": 3}, "max_call is not a setting"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        GatewayConfig.from_mapping(settings)


async def test_an_outage_of_the_engine_ends_the_agent_at_once():
    class Dead:
        async def generate(self, request_id, **kwargs):
            raise ConnectionError("engine gone")

    started = time.monotonic()

    def agent(task, base_url, api_key):
        ask(task, base_url, api_key)

    with pytest.raises(ConnectionError, match="engine gone"):
        await run(make_loop(Dead(), agent, grace_s=1.0))
    assert time.monotonic() - started < 2


async def test_limits_on_calls_and_tokens():
    def agent(task, base_url, api_key):
        codes = []
        for _ in range(3):
            try:
                ask(task, base_url, api_key, max_retries=2)  # a limit is not tried again
            except openai.RateLimitError as error:
                codes.append(error.code)
        return {"codes": codes}

    (row, _) = await run(make_loop(ScriptedEngine(["Yes.", "No."]), agent, max_calls=2))
    assert row.extra_fields["agent_result"] == {"codes": ["max_calls_reached"]}
    (row,) = await run(make_loop(ScriptedEngine(["A somewhat longer text."]), agent, max_tokens=3))
    assert row.extra_fields["agent_result"] == {"codes": ["max_tokens_reached"] * 2}


async def test_the_watchdog_does_not_count_an_agents_own_time_nor_its_wait_for_a_slot():
    seen = []

    class Watched(ScriptedEngine):
        activity = Activity("The agent loop", watched=True)

    def agent(task, base_url, api_key):
        seen.append(Watched.activity.paused)
        return len(ask(task, base_url, api_key))

    engine = Watched(["Yes."] * 3)
    await asyncio.gather(*(run(make_loop(engine, agent, concurrency=1)) for _ in range(3)))
    assert seen[1:] == [2, 1]  # the second while the third waits, then the third
    assert Watched.activity.paused == 0


async def test_calls_at_the_same_time_are_limited():
    running, most = 0, 0

    class Counting(ScriptedEngine):
        async def generate(self, *args, **kwargs):
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                return await super().generate(*args, **kwargs)
            finally:
                running -= 1

    async def agent(task, base_url, api_key):
        client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key)
        asks = [client.chat.completions.create(model="m", messages=task.messages) for _ in range(6)]
        await asyncio.gather(*asks)

    rows = await run(make_loop(Counting(lambda text: "Yes.", latency_s=0.02), agent, parallel_calls=2))
    assert (len(rows), most) == (6, 2)


async def test_a_client_that_goes_away_leaves_no_call():
    async def agent(task, base_url, api_key):
        client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key, timeout=0.3, max_retries=0)
        with contextlib.suppress(openai.APITimeoutError):
            await client.chat.completions.create(model="m", messages=task.messages)
        await client.with_options(timeout=30).chat.completions.create(
            model="m", messages=[{"role": "user", "content": "quick"}]
        )

    class Slow(ScriptedEngine):
        asked = 0

        async def generate(self, request_id, **kwargs):
            self.asked += 1
            if self.asked == 1:
                await asyncio.sleep(60)
            return await super().generate(request_id, **kwargs)

    (row,) = await run(make_loop(Slow(["Yes."]), agent))
    assert row.extra_fields["agent_calls"] == 1
