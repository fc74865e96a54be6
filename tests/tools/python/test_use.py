"""The Python tool, used as a model would use it, and closed at any moment."""
# ruff: noqa: RUF001 (look-alikes of brackets are what the model reads)

from __future__ import annotations

import asyncio
import json
import os
import re
import signal

import psutil
import pytest

from tests.assets.fakes import PROMPT, FakeEngine, guard
from tests.assets.sandbox import KILLED, OVER_CPU, make_tool, opened, still_works
from verl_atpo.replay.client import ReplayClient
from verl_atpo.replay.tools import ToolSession
from verl_atpo.tools import Branching
from verl_atpo.tools.contract import branching_of
from verl_atpo.tools.python.config import Isolation
from verl_atpo.tools.python.tool import FRESH, LOST, NO_OUTPUT
from verl_atpo.tree.recording import Generation


async def test_the_working_folder_is_private_and_small():
    tool = make_tool(Isolation.BUBBLEWRAP, disk_mb=1)
    async with opened(tool) as one, opened(tool) as other:
        assert await tool.call(one, "import os\nopen('a', 'w').write('mine')\nos.getcwd(), os.listdir()") == (
            "('/sandbox', ['a'])"
        )
        assert await tool.call(other, "import os; os.listdir()") == "[]"
        fill = "n = 0\nwhile True:\n    with open(str(n), 'wb') as f: f.write(b'x' * 4 * 10**5)\n    n += 1"
        assert "OSError: [Errno 28] No space left on device" in await tool.call(one, fill)
        empty = "for name in os.listdir(): os.remove(name)\nopen('b', 'w').write('x' * 1000)"
        assert await tool.call(one, empty) == "1000"
        assert await tool.call(one, "for n in range(60): open(str(n), 'w').close()") == (
            f"The code made more than 50 files and was stopped. {LOST}"
        )
        assert await tool.call(one, "import os; os.listdir()") == f"{FRESH}[]"
        many = "n = 0\nwhile True:\n    open(str(n), 'w').close(); n += 1"  # is seen before the call ends
        assert await tool.call(one, many) == f"The code made more than 50 files and was stopped. {LOST}"


async def test_no_working_folder():
    for tool in (make_tool(Isolation.BUBBLEWRAP, disk_mb=0), make_tool(Isolation.LANDLOCK)):
        async with opened(tool) as session:
            assert re.search("(PermissionError|Read-only file system)", await tool.call(session, "open('a', 'w')"))


USES = [
    ("x = 20", NO_OUTPUT),
    ("x + 1", "21"),
    ("print('a')\nx * 2", "a\n40"),
    ("def f(n):\n    return n + x\n\nf(1)", "21"),
    (
        "import sys\nprint('e', file=sys.stderr)\nprint('o')\nsys.stdout.buffer.write(b'b\\xff\\n') and None",
        "e\no\nb\ufffd",
    ),
    ("'ünï→🙂', '\\ud800'", "('ünï→🙂', '\\ud800')"),
    ("print('\\ud800')", "\\ud800"),
    ("None", NO_OUTPUT),
    ("", NO_OUTPUT),
    ("for i in range(3): print(i)", "0\n1\n2"),
    ("f", "<function f at 0x...>"),
    ("print('</tool_response><|im_end|>')\n'<answer> a < b'", "‹/tool_response›‹|im_end|›\n'‹answer› a < b'"),
    ("sys.stdout.close()", NO_OUTPUT),
    ("sys.stdout = None\nx", NO_OUTPUT),
    ("x", "20"),
    ("import dataclasses\n@dataclasses.dataclass\nclass P:\n    n: int = 1\nP()", "P(n=1)"),
    ("import asyncio\nasyncio.run(asyncio.sleep(0.01, 'slept'))", "'slept'"),
    ("import numpy\nfloat(numpy.linalg.det(numpy.eye(3)))", "1.0"),
    ("import sympy\nsympy.factorint(360)", "{2: 3, 3: 2, 5: 1}"),
    ("import os\nos.urandom(4) != os.urandom(4)", "True"),
    (
        "import socket\na, b = socket.socketpair()\na.sendall(b'xy')\nb.recv(1, socket.MSG_PEEK), b.recv(2)",
        "(b'x', b'xy')",
    ),
    ("import mmap\nm = mmap.mmap(-1, 4096)\nm.flush()\nm.madvise(mmap.MADV_DONTNEED)", NO_OUTPUT),
    ("os.fsync(os.open(os.__file__, os.O_RDONLY))", NO_OUTPUT),  # succeeds, and writes nothing out
]


ERRORS = [
    ("input('name? ')", "name? Traceback (most recent call last):\n", "EOFError: EOF when reading a line"),
    (
        "def g(n):\n    return n + 1\n\ng('a')",
        "line 4, in <module>\n    g('a')\n",
        "line 2, in g\n    return n + 1\n",
        'TypeError: can only concatenate str (not "int") to str',
    ),
    ("g([])", "    return n + 1\n"),  # from an earlier call, still with its source
    ("1 +", "SyntaxError: invalid syntax"),
    ("\ud800 = 1", "UnicodeEncodeError: "),
    ("a\0b", "null bytes"),
    ("import sys; sys.exit(2)", "SystemExit: 2"),
    ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ("import json\njson.loads('{')", "json.decoder.JSONDecodeError: Expecting property name"),
    ("try: 1 / 0\nexcept Exception as e: raise ValueError('no') from e", "ZeroDivisionError", "ValueError: no"),
    ("raise SyntaxError('m', ('f', 1, 2, 5))", "An exception of <class 'SyntaxError'>, which cannot be shown"),
    ("class E(Exception):\n    __cause__ = 1\nraise E", "An exception of <class '__main__.E'>, which cannot be shown"),
    ("class E(Exception):\n    def __str__(self): raise SystemExit\nraise E", "E"),
    ("class M(type):\n    __name__ = property(id)\nclass E(Exception, metaclass=M): pass\nraise E", "E"),
    ("e = ValueError('loop')\ne.__context__ = e.__cause__ = e\nraise e", "ValueError: loop"),
    ("e = None\nfor n in range(3000):\n    f = ValueError(n)\n    f.__cause__, e = e, f\nraise e", "2999"),
    ("(" * 300 + ")" * 300, "SyntaxError: too many nested parentheses"),
    ("class R:\n    def __repr__(self): raise KeyError('r')\nR()", "KeyError: 'r'"),
]


async def test_ordinary_use(strong: Isolation):
    tool = make_tool(strong, cpu_s=10.0, wall_s=30.0)
    async with opened(tool) as session:
        for code, expected in USES:
            assert await tool.call(session, code) == expected, code
        for code, *parts in ERRORS:
            seen = await tool.call(session, code)
            assert all(part in seen for part in parts) and not re.search("worker|/lib/", seen), seen
        assert await tool.call(session, 5) == 'Error: python needs a string "code", got int.'


async def test_fifty_sessions_at_once(strong: Isolation):
    tool = make_tool(strong, wall_s=60.0, cpu_s=30.0)

    async def one(number: int) -> str:
        async with opened(tool) as session:
            await tool.call(session, f"x = {number}")
            return await tool.call(session, "x ** 2")

    assert await asyncio.gather(*map(one, range(50))) == [str(number**2) for number in range(50)]


async def test_sessions_that_are_cancelled_leave_nothing(strong: Isolation):
    tool = make_tool(strong, wall_s=60.0, cpu_s=30.0)

    async def one() -> None:
        async with opened(tool) as session:
            await tool.call(session, "while True: pass")

    tasks = [asyncio.create_task(one()) for _ in range(24)]
    for number, task in enumerate(tasks):
        await asyncio.sleep(0.005 * (number % 7))
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended)
    assert len(asyncio.all_tasks()) == 1


async def test_a_cancelled_call_loses_the_variables(strong: Isolation):
    tool = make_tool(strong)
    async with opened(tool) as session:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(tool.call(session, "import time; time.sleep(9)"), 0.2)
        await still_works(tool, session, lost=True)


async def test_an_interpreter_that_is_killed_between_calls_is_replaced(strong: Isolation):
    tool = make_tool(strong)
    async with opened(tool) as session:
        session.interpreter._worker.kill()  # as by the system when memory is short
        assert re.fullmatch(KILLED, await tool.call(session, "1"))
        await still_works(tool, session, lost=True)


def test_interpreters_do_not_outlive_a_killed_trainer(strong: Isolation):
    tool = make_tool(strong, wall_s=60.0)
    read_end, write_end = os.pipe()
    trainer = os.fork()
    if trainer == 0:

        async def train() -> None:
            idle, busy = await tool.open(), await tool.open()
            pids = [session.interpreter._worker.pid for session in (idle, busy)]
            os.write(write_end, json.dumps(pids).encode())
            await tool.call(busy, "import time; time.sleep(60)")

        try:
            asyncio.run(train())
        finally:
            os._exit(1)
    workers = [psutil.Process(pid) for pid in json.loads(os.read(read_end, 100))]
    os.kill(trainer, signal.SIGKILL)
    os.waitpid(trainer, 0)
    os.close(read_end)
    os.close(write_end)
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


async def test_replay_sees_what_the_first_run_saw(strong: Isolation):
    tool = make_tool(strong, cpu_s=10.0, wall_s=30.0)
    assert branching_of(tool) is Branching.REPLAY
    codes = [
        "import random, uuid, secrets, numpy\nrandom.random(), uuid.uuid4(), secrets.token_hex(), numpy.random.rand()",
        "numpy.random.default_rng().random(), hash('a'), list({'a', 'b', 'c', 'd'}), object()",
        "import os; os._exit(1)",
        "random.random()",
    ]

    async def run(prefix: list[Generation], *codes: str) -> tuple[ReplayClient, list[str]]:
        session = ReplayClient(FakeEngine(stop=0.0), "tree", prefix)
        tools = ToolSession(session, guard())
        (wrapped,) = tools.wrap([tool])
        prompt, seen = list(PROMPT), []
        for code in codes:
            output = await session.generate("x", prompt_ids=prompt)
            made, _ = await wrapped.create()
            response, _, _ = await wrapped.execute(made, {"code": code})
            seen.append(response.text)
            prompt = [*prompt, *output.token_ids, *response.text.encode()]
        await tools.close()
        assert tools.counts.states_opened == tools.counts.states_closed == 1
        return session, seen

    first, seen = await run([], *codes)
    branch, again = await run(first.generations[:4], *codes[:3], "'another turn'")
    assert again == [*seen[:3], f"{FRESH}'another turn'"]
    assert branch.replayed == 4 and not branch.diverged


@pytest.fixture(scope="module")
def uvloop() -> object:
    """The module, after it has made the descriptors that it keeps."""
    uvloop = pytest.importorskip("uvloop")
    _run_in(uvloop, lambda: asyncio.create_subprocess_exec("true"))
    return uvloop


def _run_in(uvloop, use):
    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(use())
    finally:
        loop.close()


def test_it_runs_under_uvloop(uvloop, strong: Isolation):
    tool = make_tool(strong)

    async def use() -> list[str]:
        async with opened(tool) as session:
            seen = [await tool.call(session, code) for code in ("x = 1", "while True: pass", "2")]
            session.interpreter._worker.kill()
            return [*seen, await tool.call(session, "3")]

    seen = _run_in(uvloop, use)
    assert re.fullmatch(KILLED, seen.pop())
    assert seen[0] == NO_OUTPUT and re.fullmatch(OVER_CPU, seen[1]) and seen[2] == f"{FRESH}2"
