"""The Python tool, attacked for real in every isolation that works here, and used as a model would use it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
from verl.tools.tool_registry import initialize_tools_from_config

from tests.assets.fakes import PROMPT, FakeEngine, guard
from verl_atpo.rollout.replay import BranchSession, Generation
from verl_atpo.rollout.tool_session import ToolSession
from verl_atpo.settings import ConfigError
from verl_atpo.tools import Branching, ToolOutage
from verl_atpo.tools.branching import branching_of
from verl_atpo.tools.python import PythonTool, isolation
from verl_atpo.tools.python.config import Isolation, PythonConfig
from verl_atpo.tools.python.tool import FRESH, LOST, NO_OUTPUT, Session

STRONG = (Isolation.BUBBLEWRAP, Isolation.LANDLOCK)
LIMITS = {"cpu_s": 1.0, "wall_s": 30.0, "memory_mb": 400, "files": 50}
SECRET = "correct horse battery staple"
ME = os.getpid()


def make_tool(isolation: Isolation, **settings: object) -> PythonTool:
    """A tool with short limits."""
    try:
        return PythonTool({"type": "native", "isolation": isolation.value, **LIMITS, **settings})
    except ConfigError as error:
        if "does not hold" in str(error):  # it works here, and is broken
            raise
        pytest.skip(str(error))


def forget_what_works() -> None:
    isolation._tried.cache_clear()
    isolation._layout.cache_clear()


@contextlib.asynccontextmanager
async def opened(tool: PythonTool) -> AsyncIterator[Session]:
    session = await tool.open()
    try:
        yield session
    finally:
        await tool.close(session)


@pytest.fixture(params=STRONG, ids=lambda each: each.value)
def strong(request: pytest.FixtureRequest) -> Isolation:
    return request.param


@pytest.fixture(autouse=True)
def nothing_remains() -> Iterator[None]:
    """Afterwards this process has the children and descriptors that it had before."""
    me = psutil.Process()
    children, descriptors = me.children(recursive=True), me.num_fds()
    yield
    deadline = time.monotonic() + 5
    while (me.children(recursive=True) != children or me.num_fds() > descriptors) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert me.children(recursive=True) == children
    assert me.num_fds() <= descriptors


@pytest.fixture
async def attacked(strong: Isolation, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[PythonTool, Session]]:
    monkeypatch.setenv("TRAINER_SECRET", SECRET)
    tool = make_tool(strong)
    session = await tool.open()
    worker = session.interpreter._worker
    assert await tool.call(session, "kept = 42") == NO_OUTPUT
    yield tool, session
    await tool.close(session)
    await tool.close(session)  # is safe
    assert not worker.is_running()


async def still_works(tool: PythonTool, session: Session, lost: bool) -> None:
    """The next call is answered, by the same interpreter or by a new one that says so."""
    seen = await tool.call(session, "print(globals().get('kept')); 6 * 7")
    assert seen == (f"{FRESH}None\n42" if lost else "42\n42")


# An attack that got through must not harm the machine that runs the tests, so signals are the one that only asks (0).
# What the model reads, and whether its variables are lost. Errors are those of the system, which differ a little.
DENIED = r"(PermissionError|FileNotFoundError|ProcessLookupError|OSError|BlockingIOError|NotADirectoryError): .*"
OVER_CPU = rf"The code used more than 1 s of CPU time and was stopped\. {re.escape(LOST)}"
ATTACKS: dict[str, tuple[str, str, bool]] = {
    "endless loop": ("while True: pass", OVER_CPU, True),
    "deaf to signals": (
        "import signal\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\n"
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        OVER_CPU,
        True,
    ),
    "CPU in C code": ("10 ** 10 ** 8", OVER_CPU, True),
    "fork bomb": ("import os\nwhile True: os.fork()", DENIED, False),
    "thread bomb": ("import threading\nwhile True: threading.Thread(target=input).start()", "RuntimeError: .*", False),
    "program": ("import os\nos.execv('/bin/sh', ['sh'])", DENIED, False),
    "subprocess": ("import subprocess\nsubprocess.run(['/bin/ls'])", DENIED, False),
    "daemon": ("import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass", DENIED, False),
    "memory bomb": ("x = []\nwhile True: x.append('a' * 10**7)", "MemoryError", False),
    "memory at once": ("bytearray(10**12)", "MemoryError", False),
    "more memory": ("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "ValueError: .*", False),
    "memory outside the limit": ("import os\nos.memfd_create('x')", DENIED, False),
    "environment": ("import os\nprint('TRAINER_SECRET' in os.environ)", "False", False),
    "its environment in /proc": (f"open('/proc/{ME}/environ', 'rb').read()", DENIED, False),
    "own environment in /proc": ("open('/proc/self/environ', 'rb').read()", DENIED, False),
    "memory of the trainer": (f"open('/proc/{ME}/mem', 'rb').read()", DENIED, False),
    "shadow": ("open('/etc/shadow').read()", DENIED, False),
    "repository": (f"open({__file__!r}).read()", DENIED, False),
    "list of a folder": (f"import os\nos.listdir({os.path.dirname(__file__)!r})", DENIED, False),
    "writing to /tmp": ("open('/tmp/python_tool_was_here', 'w')", DENIED, False),
    "writing to /dev/shm": ("open('/dev/shm/python_tool_was_here', 'w')", DENIED, False),
    "writing to the root": ("open('/python_tool_was_here', 'w')", DENIED, False),
    "killing the trainer": (f"import os\nos.kill({ME}, 0)", DENIED, False),
    "killing the parent": ("import os\nos.kill(os.getppid() or -1, 0)", DENIED, False),
    "killing all": ("import os\nos.kill(-1, 0)", DENIED, False),
    "killing by descriptor": (f"import os\nos.pidfd_open({ME})", DENIED, False),
    "killing by owner of a pipe": (f"import fcntl, os\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, {ME})", DENIED, False),
    "tracing the trainer": (f"import ctypes\nctypes.CDLL(None).ptrace(16, {ME}, 0, 0)", "-1", False),
    "reading its memory": (
        f"import ctypes\nctypes.CDLL(None).process_vm_readv({ME}, None, 0, None, 0, 0)",
        "-1",
        False,
    ),
    "new namespace": ("import ctypes\nctypes.CDLL(None).unshare(0x10000000)", "-1", False),
    "mount": ("import ctypes\nctypes.CDLL(None).mount(b'none', b'/', b'tmpfs', 0, None)", "-1", False),
    "mmap'd code": (
        "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\n"
        # mov eax, 57 (fork); syscall; ret
        "m.write(bytes.fromhex('b8390000000f05c3'))\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()",
        "-1",
        False,
    ),
    "closing descriptors": ("import os\nos.closerange(0, 1000)", rf"The interpreter ended with .*{LOST}", True),
    "leaving": ("import os\nos._exit(3)", rf"The interpreter ended with exit code 3\. {LOST}", True),
    "crash": ("import ctypes\nctypes.string_at(0)", rf"The interpreter crashed \(SIGSEGV\)\. {LOST}", True),
    "no builtins": ("import builtins\nbuiltins.__dict__.clear()", rf"The interpreter ended .*{LOST}", True),
    "no names": ("globals().clear()\n6 * 7", "42", True),
    "huge output": ("print('x' * 10**7)", r"x{4000}\n\[9992001 bytes left out\]\nx{3999}", False),
    "endless output": ("while True: print('x' * 10**5)", OVER_CPU, True),
    "flood of its channel": (
        "import os\nfor fd in range(3, 64):\n    try:\n        while True: os.write(fd, b'x' * 10**5)\n"
        "    except OSError: pass",
        rf"The code wrote to file descriptors that are not its own, and was stopped\. {LOST}",
        True,
    ),
    "filling its channel": (
        "import os\nfor fd in range(3, 64):\n    try:\n        while True: os.write(fd, b'x\\n')\n"
        "    except OSError: pass",
        rf"The code wrote to file descriptors that are not its own, and was stopped\. {LOST}",
        True,
    ),
}
if sys.platform != "linux" or os.uname().machine != "x86_64":
    del ATTACKS["mmap'd code"]


@pytest.mark.parametrize(("code", "expected", "lost"), ATTACKS.values(), ids=ATTACKS.keys())
async def test_attack(attacked, code: str, expected: str, lost: bool):
    tool, session = attacked
    seen = await tool.call(session, code)
    assert re.fullmatch(rf"(Traceback .*\n)?({expected})", seen, re.DOTALL), seen
    assert SECRET not in seen
    if "globals().clear()" in code:  # its own variables are gone, and the interpreter is not
        assert await tool.call(session, "kept = 42; kept") == "42"
        lost = False
    await still_works(tool, session, lost)
    assert not Path("/tmp/python_tool_was_here").exists() and not Path("/python_tool_was_here").exists()


async def test_files_outside_can_be_neither_read_nor_changed(attacked, tmp_path: Path):
    tool, session = attacked
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o666)
    tmp_path.chmod(0o777)
    before = secret.stat()
    for attempt in (
        f"open({str(secret)!r}).read()",
        f"open({str(secret)!r}, 'w')",
        f"os.open({str(secret)!r}, os.O_RDONLY | os.O_TRUNC)",
        f"os.truncate({str(secret)!r}, 0)",
        f"os.chmod({str(secret)!r}, 0)",
        f"os.utime({str(secret)!r}, (0, 0))",
        f"os.unlink({str(secret)!r})",
        f"os.rename({str(secret)!r}, {str(tmp_path / 'other')!r})",
        f"os.link({str(secret)!r}, 'link')",
        f"os.mkdir({str(tmp_path / 'folder')!r})",
        f"os.symlink({str(secret)!r}, 'link') or open('link').read()",
        f"os.chroot({str(tmp_path)!r})",
    ):
        seen = await tool.call(session, f"import os\n{attempt}")
        assert re.search(DENIED, seen), (attempt, seen)
    code = (
        f"import ctypes\nlibc = ctypes.CDLL(None)\n[libc.open(p, 0) for p in ({os.fsencode(secret)!r}, b'/etc/shadow')]"
    )
    assert await tool.call(session, code) == "[-1, -1]"
    assert secret.read_text() == SECRET and secret.stat() == before and os.listdir(tmp_path) == ["secret"]
    await still_works(tool, session, lost=False)


async def test_what_may_be_read_may_not_be_changed(strong: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    library = tmp_path / "library.py"
    library.write_text("open to all")
    library.chmod(0o666)
    tmp_path.chmod(0o777)
    before = library.stat()
    monkeypatch.setattr(isolation, "SYSTEM", (*isolation.SYSTEM, str(tmp_path)))
    forget_what_works()
    tool = make_tool(strong)
    forget_what_works()
    async with opened(tool) as session:
        assert await tool.call(session, f"import os\nopen({str(library)!r}).read()") == "'open to all'"
        for attempt in (
            f"open({str(library)!r}, 'a')",
            f"os.open({str(library)!r}, os.O_RDONLY | os.O_TRUNC)",
            f"os.truncate({str(library)!r}, 0)",
            f"os.chmod({str(library)!r}, 0)",
            f"os.utime({str(library)!r}, (0, 0))",
            f"os.rename({str(library)!r}, {str(tmp_path / 'other')!r})",
            f"os.unlink({str(library)!r})",
            f"open({str(tmp_path / 'new')!r}, 'w')",
        ):
            seen = await tool.call(session, attempt)
            assert re.search(DENIED, seen), (attempt, seen)
    after = library.stat()
    assert (after.st_mode, after.st_size, after.st_mtime) == (before.st_mode, before.st_size, before.st_mtime)
    assert os.listdir(tmp_path) == ["library.py"]


REACH = """
import socket
{make}
try: s.connect({address!r})
except OSError as error: print(error)
s.sendto(b'got out', {address!r})
"""


async def test_no_socket_outside_is_reached(attacked, tmp_path: Path):
    tool, session = attacked
    reached: list[bytes] = []

    def listen(listener: socket.socket) -> None:
        while True:
            stream = listener.type is socket.SOCK_STREAM
            with listener.accept()[0] if stream else listener.dup() as connection:
                received = connection.recv(10)
            if received == b"control":
                return
            reached.append(received)

    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    names = [(kind, str(tmp_path / kind.name)) for kind in kinds]
    names += [(kind, f"\0{tmp_path}/{kind.name}") for kind in kinds]
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0)))]
        for kind, name in names:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            listener.bind(name)
            if kind is socket.SOCK_STREAM:
                listener.listen()
            listeners.append(listener)
        threads = [threading.Thread(target=listen, args=(each,)) for each in listeners]
        for thread in threads:
            thread.start()
        addresses = [listeners[0].getsockname(), *(name for _, name in names)]
        for listener, address in zip(listeners, addresses, strict=True):
            family, kind = listener.family, listener.type
            makes = [f"s = socket.socket({family.value}, {kind.value})"]
            if family is socket.AF_UNIX:
                makes.append(f"s, other = socket.socketpair({family.value}, {kind.value})")
            for make in makes:
                seen = await tool.call(session, REACH.format(make=make, address=address))
                assert re.search(DENIED, seen), seen
            with socket.socket(family, kind) as control:  # from here all of them can be reached
                control.connect(address)
                control.send(b"control")
        for thread in threads:
            await asyncio.to_thread(thread.join, 5)
            assert not thread.is_alive()
    assert reached == []
    await still_works(tool, session, lost=False)


STEAL = """
import json, os, sys, time
frame = sys._getframe()
while 'request' not in frame.f_locals: frame = frame.f_back
nonce = frame.f_locals['request']['nonce']
def forge(nonce):
    os.write(frame.f_locals['replies'], (json.dumps({'nonce': nonce, 'output': 'forged \\ud800'}) + '\\n').encode())
"""


async def test_replies_of_later_calls_cannot_be_forged(attacked):
    tool, session = attacked
    forged = '{"nonce": "0", "output": "forged"}'
    lines = [forged, "{}", "[]", "null", '"' * 3, "[" * 500, '{"nonce": 1, "output": 1}']
    code = f"{STEAL}\nfor line in {lines!r}: os.write(frame.f_locals['replies'], line.encode() + b'\\n')"
    assert await tool.call(session, f"{code}\nforge('guess'); 1") == "1"
    await still_works(tool, session, lost=False)
    # Code can answer its own call early, which is no more than printing. It does not run on in the meantime.
    assert (
        await tool.call(session, f"{STEAL}\nforge(nonce)\nfor _ in range(9): forge(nonce)\nwhile True: pass")
        == "forged ?"
    )
    worker = session.interpreter._worker
    used = worker.cpu_times().user
    await asyncio.sleep(0.3)
    assert worker.status() == psutil.STATUS_STOPPED and worker.cpu_times().user == used
    assert re.fullmatch(OVER_CPU, await tool.call(session, "1"))
    await still_works(tool, session, lost=True)


WAITS = ("import time; time.sleep(99)", "import os; os.read(3, 1)", "import signal; signal.pause()", "SILENT")


@pytest.mark.parametrize("code", WAITS)
async def test_a_call_that_waits_is_stopped(strong: Isolation, code: str):
    tool = make_tool(strong, wall_s=0.5)
    async with opened(tool) as session:
        if code == "SILENT":  # the interpreter answers no further call
            assert await tool.call(session, "import json; json.dumps = lambda *a: ''") == NO_OUTPUT
        started = time.monotonic()
        assert await tool.call(session, code) == f"The code ran longer than 0.5 s and was stopped. {LOST}"
        assert 0.5 <= time.monotonic() - started < 5
        await still_works(tool, session, lost=True)


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
    ("sys.stdout.close()", NO_OUTPUT),
    ("sys.stdout = None\nx", NO_OUTPUT),
    ("x", "20"),
    ("import dataclasses\n@dataclasses.dataclass\nclass P:\n    n: int = 1\nP()", "P(n=1)"),
    ("import asyncio\nasyncio.run(asyncio.sleep(0.01, 'slept'))", "'slept'"),
    ("import numpy\nfloat(numpy.linalg.det(numpy.eye(3)))", "1.0"),
    ("import sympy\nsympy.factorint(360)", "{2: 3, 3: 2, 5: 1}"),
    ("import os\nos.urandom(4) != os.urandom(4)", "True"),
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


KILLED = rf"The interpreter crashed \(SIGKILL\)\. {LOST}"


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

    async def run(prefix: list[Generation], *codes: str) -> tuple[BranchSession, list[str]]:
        session = BranchSession(FakeEngine(stop=0.0), "tree", prefix)
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


async def test_a_sandbox_that_does_not_start_is_an_outage(strong: Isolation):
    tool = make_tool(strong)
    working = tool.sandbox
    for command in (("/no/such/program",), ("/bin/sh", "-c", "echo broken >&2; exit 1"), ("/bin/sleep", "60")):
        tool.sandbox = dataclasses.replace(working, command=command, isolation=Isolation.LANDLOCK)
        tool.settings = dataclasses.replace(tool.settings, start_s=0.3)
        with pytest.raises(ToolOutage, match="could not be started"):
            await tool.open()


def test_auto_takes_the_strongest_and_never_a_weak_one(monkeypatch: pytest.MonkeyPatch, caplog):
    def broken(*args: object) -> str:
        raise OSError("not on this machine")

    forget_what_works()
    with caplog.at_level(logging.INFO):
        assert PythonTool({}).sandbox.isolation in STRONG  # on every machine that runs these tests
    assert "The Python tool's sandbox is" in caplog.text
    forget_what_works()
    monkeypatch.setattr(isolation, "_bwrap", broken)
    make_tool(Isolation.LANDLOCK)
    with caplog.at_level(logging.WARNING):
        assert PythonTool({}).sandbox.isolation is Isolation.LANDLOCK
    assert "sandbox is landlock, as others do not work here: {'bubblewrap': 'OSError: not on this" in caplog.text
    forget_what_works()
    monkeypatch.setattr(isolation, "_landlock_folder", broken)
    with pytest.raises(ConfigError, match=r"(?s)'auto' does not work.*bubblewrap: OSError.*landlock: .*Remedies: `pip"):
        PythonTool({})
    with pytest.raises(ConfigError, match="'bubblewrap' does not work"):
        PythonTool({"isolation": "bubblewrap"})
    forget_what_works()


def test_a_sandbox_that_lets_something_through_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(isolation, "SYSTEM", (*isolation.SYSTEM, "/etc/passwd"))
    forget_what_works()
    with pytest.raises(ConfigError, match="the sandbox does not hold: code in it could read /etc/passwd"):
        PythonTool({})
    forget_what_works()


async def test_limits_only_says_so_and_still_limits(caplog):
    forget_what_works()
    tool = make_tool(Isolation.LIMITS_ONLY)
    assert "WITHOUT a sandbox" in caplog.text
    async with opened(tool) as session:
        assert "MemoryError" in await tool.call(session, "bytearray(10**12)")
        assert re.fullmatch(OVER_CPU, await tool.call(session, "while True: pass"))
        await tool.call(session, "import os\nif os.fork() == 0:\n    while True: pass")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"isolation": "none"}, "python.isolation='none' cannot work: expected one of auto, bubblewrap, landlock"),
        ({"cpu": 1.0}, "python.cpu is not a setting"),
        ({"cpu_s": 0.0}, "python.cpu_s=0.0 cannot work: expected a number of seconds above 0"),
        ({"memory_mb": 1}, "python.memory_mb=1 cannot work: expected an integer of at least 64"),
        ({"seed": -1}, "python.seed=-1 cannot work"),
        ({"python": "/no/python"}, "python.python='/no/python' cannot be run"),
    ],
)
def test_settings_that_cannot_work(settings: dict, message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        PythonTool(settings)


def test_the_shipped_tool_config_is_the_default():
    path = Path(isolation.__file__).parents[1] / "python.yaml"
    (tool,) = initialize_tools_from_config(str(path))
    assert isinstance(tool, PythonTool) and tool.settings == PythonConfig()
    function = tool.tool_schema.function
    assert function.name == "python" and list(function.parameters.properties) == function.parameters.required == [
        "code"
    ]


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
