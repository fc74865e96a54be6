"""What model-written code can take from the machine: memory of every kind, time of the event loop, descriptors."""

from __future__ import annotations

import contextlib
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.assets.cgroup import memory_group
from tests.assets.sandbox import STEAL, make_tool, opened, still_works
from verl_atpo.tools import ToolOutage
from verl_atpo.tools.python import PythonTool
from verl_atpo.tools.python.config import Isolation
from verl_atpo.tools.python.tool import LOST

NOT_ITS_OWN = f"The code wrote to file descriptors that are not its own, and was stopped. {LOST}"
MEBIBYTE = 2**20

FILL = """
import os, socket
def fill(send):
    try:
        while True: send()
    except OSError: pass
kept = []
"""
LIBC = """
import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
"""
# Memory that no limit of a process counts: the kernel's, on its behalf. Each takes all that it gets.
HOARDS = {
    "sockets": f"{FILL}\nwhile len(kept) < 50:\n    kept += socket.socketpair()\nfor each in kept:\n"
    "    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):\n"
    "        try: each.setsockopt(socket.SOL_SOCKET, option, 2**26)\n        except OSError: pass\n"
    "    each.setblocking(False)\n    fill(lambda: each.send(bytes(2**16)))",
    "sockets in sockets": f"{FILL}\nfor _ in range(40):\n    a, b = socket.socketpair(); c, d = socket.socketpair()\n"
    "    c.setblocking(False); fill(lambda: c.send(bytes(2**16)))\n    kept += [a, b]\n"
    "    try: socket.send_fds(a, [b'x'], [c.fileno(), d.fileno()])\n    except OSError: pass\n"
    "    c.close(); d.close()\n    if len(kept) > 40: break",
    "pipes": f"{FILL}\nfor _ in range(25):\n    r, w = os.pipe2(os.O_NONBLOCK); kept += [r, w]\n"
    "    fill(lambda: os.write(w, bytes(4096)))",
    "page tables": "import mmap\nm = mmap.mmap(-1, 300 * 2**20, flags=34)\nfor n in range(0, len(m), 2**21): m[n] = 1",
    "scattered mappings": f"{LIBC}\nfor place in range(1, 60000):\n"
    "    at = place << 30\n    if libc.mmap(at, 4096, 1, 0x100022, -1, 0) == at: ctypes.c_char.from_address(at).value",
    "shared memory": "import mmap\nkept = []\ntry:\n    for _ in range(8):\n        m = mmap.mmap(-1, 2**27)\n"
    "        for at in range(0, 2**27, 4096): m[at] = 1\n        m.resize(4096); kept.append(m)\n"
    "except OSError: pass",
    "shared pages": "import mmap\nkept = []\ntry:\n"
    "    while True:\n        kept.append(mmap.mmap(-1, 4096)); kept[-1][0] = 1\n"
    "except (OSError, MemoryError): pass",
    "huge pages": f"{LIBC}\nhuge, size = 2**21, 100 * 2**20\nfor _ in range(8):\n"
    "    base = libc.mmap(None, size, 3, 0x22, -1, 0)\n"
    "    libc.madvise(ctypes.c_void_p(base), ctypes.c_size_t(size), 14)\n"
    "    first = base + -base % huge\n    libc.munmap(base, first - base)\n"
    "    for at in range(first, base + size - huge, huge):\n        ctypes.c_char.from_address(at).value = b'x'\n"
    "        libc.munmap(at + 4096, huge - 4096)",
    "names of no files": "import os\nn = 0\nwhile True:\n    n += 1\n    try: os.stat(f'/usr/lib/{n:0200}')\n"
    "    except OSError: pass",
    "mappings": "import mmap\nmaps = []\ntry:\n"
    "    while True: maps.append(mmap.mmap(-1, 4096, prot=len(maps) % 2 + 1))\n"
    "except (OSError, MemoryError): pass",
    "polls": f"{FILL}\nimport select\nkept = [*socket.socketpair()]\nfor _ in range(20):\n"
    "    e = select.epoll(); kept.append(e)\n    for fd in range(3, 64):\n"
    "        try: e.register(fd)\n        except OSError: pass",
    "files": "import os\ntry:\n    for n in range(10**7): open(f'{n:0200}', 'w').close()\nexcept OSError: pass",
    "bytes": "kept = []\ntry:\n    while True: kept.append(b'x' * 10**6)\nexcept MemoryError: pass",
}
HOARDS["all at once"] = "\nsockets = kept\n".join(HOARDS[name] for name in ("sockets", "mappings", "bytes"))
BESIDE_THE_ADDRESS_SPACE = ("scattered mappings", "shared memory", "huge pages", "names of no files")
"""They held 500 to 1,600 MiB, and more with each call, when nothing but the address space was limited."""
KERNELS_SHARE_MB = 64
"""What all of the above may hold besides ``memory_mb`` and ``disk_mb``, by the docs."""


@pytest.mark.fault(
    "Python sandbox", "memory hoarded in the process and in the kernel", "within memory_mb, disk_mb and 64 MiB"
)
@pytest.mark.parametrize("hoard", HOARDS)
async def test_all_memory_stays_within_what_is_promised(strong: Isolation, hoard: str):
    """Measured by a control group, which counts the kernel's memory as well."""
    tool = make_tool(strong, memory_mb=400, disk_mb=16, cpu_s=5.0, wall_s=60.0)
    with memory_group() as group:
        async with opened(tool) as session:
            group.add(session.interpreter._worker.pid)
            before = group.bytes()
            await tool.call(session, HOARDS[hoard])
        used = group.most_bytes() - before
    assert 0 <= used < (400 + 16 + KERNELS_SHARE_MB) * MEBIBYTE
    if hoard == "bytes":  # the group does count
        assert used > 300 * MEBIBYTE
    elif hoard in BESIDE_THE_ADDRESS_SPACE:  # looked at ten times a second, so some of it is had in between
        assert used < 2 * KERNELS_SHARE_MB * MEBIBYTE
    elif hoard in ("sockets", "sockets in sockets"):  # 60 sockets held 997 MB when options could be set
        assert used < KERNELS_SHARE_MB * MEBIBYTE


@pytest.mark.fault("Python sandbox", "memory or CPU that run short", "the interpreter stands back, not the trainer")
async def test_it_stands_back_for_memory_and_cpu(strong: Isolation):
    tool = make_tool(strong, niceness=7)
    async with opened(tool) as session:
        worker = psutil.Process(session.interpreter._worker.pid)
        assert worker.nice() == 7
        assert Path(f"/proc/{worker.pid}/oom_score_adj").read_text() == "1000\n"
        assert psutil.Process().nice() == 0


@pytest.mark.fault("Python sandbox", "a question for the host's name (bubblewrap)", "answered by sandbox")
async def test_its_host_is_not_named():
    tool = make_tool(Isolation.BUBBLEWRAP)
    async with opened(tool) as session:
        assert await tool.call(session, "import platform; platform.node()") == "'sandbox'"


LIES = {  # what a forged reply says, and what of it reaches the model
    "long": ("'x' * 40000", r"x{4000}\n\[32000 bytes left out\]\nx{4000}"),
    "wide": ("'\\u20ac' * 7000", r"€{1333}\n\[13000 bytes left out\]\n€{1333}"),
    "as long as may be": ("'x' * 8000", "x{8000}"),
}


@pytest.mark.fault("Python sandbox", "outputs longer than allowed, forged", "cut by the trainer")
@pytest.mark.parametrize("lie", LIES)
async def test_a_forged_output_is_no_longer_than_an_honest_one(attacked, lie: str):
    tool, session = attacked
    text, expected = LIES[lie]
    forge = f"os.write(frame.f_locals['replies'], (json.dumps({{'nonce': nonce, 'output': {text}}}) + '\\n').encode())"
    assert re.fullmatch(expected, await tool.call(session, f"{STEAL}\n{forge}"))


@pytest.mark.fault("Python sandbox", "48,000 newlines on its channel", "stopped after a hundred")
async def test_many_short_lines_do_not_hold_up_the_event_loop(attacked, monkeypatch: pytest.MonkeyPatch):
    """48,000 newlines took 340 ms of it; counted here are lines read, as clocks depend on the machine."""
    tool, session = attacked
    stdout, lines = session.interpreter._process.stdout, 0
    readline = stdout.readline

    async def counted() -> bytes:
        nonlocal lines
        lines += 1
        return await readline()

    monkeypatch.setattr(stdout, "readline", counted)
    assert await tool.call(session, f"{STEAL}\nos.write(frame.f_locals['replies'], b'\\n' * 48000)") == NOT_ITS_OWN
    assert 0 < lines <= 101
    await still_works(tool, session, lost=True)


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Only so many more file descriptors can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken[0], *map(int, os.listdir("/proc/self/fd"))) + 40, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(taken[0]))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def started(tool: PythonTool) -> bool:
    """Whether a session can be opened and used; if not, it has to be an outage."""
    try:
        async with opened(tool) as session:
            assert await tool.call(session, "6 * 7") == "42"
        return True
    except ToolOutage as outage:
        assert "Too many open files" in str(outage)
        return False


@pytest.mark.fault(
    "Python sandbox", "no file descriptors left, at each step of a start", "an outage; no process is left"
)
async def test_a_start_without_descriptors_is_an_outage_that_leaves_nothing(strong: Isolation):
    """With every number of descriptors left, so that each step of a start fails once; ``nothing_remains`` looks."""
    tool = make_tool(strong)
    assert await started(tool)
    children = psutil.Process().children()
    came_up = []
    for count in range(20):
        with descriptors_left(count):
            came_up.append(await started(tool))
        assert psutil.Process().children() == children, f"with {count} descriptors left"
    assert not came_up[0] and came_up[-1] and came_up == sorted(came_up)
    assert await started(tool)


@pytest.mark.fault("Python sandbox", "no file descriptors left during a call", "watched and ended as usual")
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("6 * 7", "42"),
        ("while True: pass", "The code used more than 1 s of CPU.*"),
        ("import os; os._exit(3)", ".*3.*"),
    ],
)
async def test_a_call_without_descriptors_is_watched_and_ended_like_any_other(strong: Isolation, code, expected):
    tool = make_tool(strong)
    session = await tool.open()
    worker = psutil.Process(session.interpreter._worker.pid)
    with descriptors_left(0):
        assert re.fullmatch(expected, await tool.call(session, code))
        await tool.close(session)
    assert not worker.is_running()


@pytest.mark.fault("Python sandbox", "an error of the machine during a call", "an outage; the interpreter is gone")
async def test_a_call_that_the_machine_fails_is_an_outage_and_its_interpreter_gone(
    strong: Isolation, monkeypatch: pytest.MonkeyPatch
):
    tool = make_tool(strong)
    session = await tool.open()
    worker = psutil.Process(session.interpreter._worker.pid)

    def broken() -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(session.interpreter, "_check_files", broken)
    with pytest.raises(ToolOutage, match="Input/output error"):
        await tool.call(session, "1")
    await tool.close(session)
    assert not worker.is_running()
