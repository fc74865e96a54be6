"""The Python tool, attacked for real in every isolation that works here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.assets.sandbox import DENIED, OVER_CPU, SECRET, STEAL, forget_what_works, make_tool, opened, still_works
from verl_atpo.tools.python import isolation
from verl_atpo.tools.python.config import Isolation
from verl_atpo.tools.python.tool import LOST, NO_OUTPUT

ME = os.getpid()
PAIR = "import socket\na, b = socket.socketpair()"


def machine_code(code: str) -> str:
    """Runs these bytes, and says what they return."""
    return (
        f"import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(bytes.fromhex('{code}'))\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()"
    )


NEWER_CALLS = {
    "io_uring_setup": 425, "clone3": 435, "userfaultfd": 323, "bpf": 321, "perf_event_open": 298, "keyctl": 250,
    "fsopen": 430, "open_tree": 428, "process_vm_readv": 310, "splice": 275, "vmsplice": 278, "copy_file_range": 326,
    "execveat": 322, "pidfd_getfd": 438, "memfd_secret": 447, "setns": 308, "prctl": 157, "kexec_load": 246,
}  # fmt: skip

# An attack that got through must not harm the machine that runs the tests, so signals are the one that only asks (0).
# Then what the model reads, and whether its variables are lost.
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
    "memory bomb": ("x = []\nwhile True: x.append(bytes(10**7))", "MemoryError", False),
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
    "larger socket buffers": (f"{PAIR}\na.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**28)", DENIED, False),
    "a program in the kernel": (f"{PAIR}\na.setsockopt(socket.SOL_SOCKET, 26, bytes(16))", DENIED, False),
    "descriptor of a socket's owner": (f"{PAIR}\na.getsockopt(socket.SOL_SOCKET, 77)", DENIED, False),
    "urgent bytes": (f"{PAIR}\na.send(b'x', socket.MSG_OOB)", DENIED, False),
    "descriptors in flight": (f"{PAIR}\nsocket.send_fds(a, [b'x'], [a.fileno()])", DENIED, False),
    "pushing libraries out of memory": (
        "import mmap, os\nm = mmap.mmap(os.open(os.__file__, os.O_RDONLY), 0, prot=mmap.PROT_READ)\nm.madvise(21)",
        DENIED,
        False,
    ),
    "new namespace": ("import ctypes\nctypes.CDLL(None).unshare(0x10000000)", "-1", False),
    "mount": ("import ctypes\nctypes.CDLL(None).mount(b'none', b'/', b'tmpfs', 0, None)", "-1", False),
    "mmap'd code": (machine_code("b8390000000f05c3"), "-1", False),  # mov eax, 57 (fork); syscall; ret
    "32-bit system call": (machine_code("b802000000cd80c3"), rf"The interpreter crashed \(SIGSYS\)\. {LOST}", True),
    "x32 system call": (machine_code("b8390000400f05c3"), rf"The interpreter crashed \(SIGSYS\)\. {LOST}", True),
    "newer system calls": (
        f"import ctypes\nlibc = ctypes.CDLL(None)\n"
        f"[name for name, n in {NEWER_CALLS}.items() if libc.syscall(n, 0, 0, 0, 0, 0) != -1]",
        r"\[\]",
        False,
    ),
    "files through the trainer's root": (f"open('/proc/{ME}/root/etc/shadow').read()", DENIED, False),
    "files through its folder": (f"open('/proc/{ME}/cwd/setup.py').read()", DENIED, False),
    "own descriptors anew": ("import os\n[os.open(f'/proc/self/fd/{n}', 2) for n in range(3, 20)]", DENIED, False),
    "larger pipes": ("import fcntl, os\nfcntl.fcntl(os.pipe()[1], 1031, 1 << 20)", DENIED, False),
    "program by posix_spawn": ("import os\nos.posix_spawn('/bin/ls', ['ls'], {})", DENIED, False),
    "regular expression without an end": ("import re\nre.match('(a+)+$', 'a' * 60 + 'b')", OVER_CPU, True),
    "equal hashes": ("{(2**61 - 1) * n: 0 for n in range(3 * 10**5)} and None", OVER_CPU, True),
    "an error whose text has no end": (
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
        OVER_CPU,
        True,
    ),
    "a value that leaves when shown": (
        "class A:\n    def __repr__(self): raise SystemExit(7)\nA()",
        "SystemExit: 7",
        False,
    ),
    "a finalizer without an end": (
        "class D:\n    def __del__(self):\n        while True: pass\nD(); 1",
        OVER_CPU,
        True,
    ),
    "a trace without an end": ("import sys\ndef t(*a):\n    while True: pass\nsys.setprofile(t)", OVER_CPU, True),
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
    for name in ("mmap'd code", "32-bit system call", "x32 system call", "newer system calls"):
        del ATTACKS[name]


@pytest.mark.fault(
    "Python sandbox",
    "code that attacks processes, files, sockets, its interpreter",
    "refused or stopped; the next call works",
)
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


@pytest.mark.fault("Python sandbox", "files outside, read or changed in twelve ways", "refused")
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
    assert secret.stat() == before, "reading it below changes the time of access"
    assert secret.read_text() == SECRET and os.listdir(tmp_path) == ["secret"]
    await still_works(tool, session, lost=False)


@pytest.mark.fault("Python sandbox", "libraries, written to in eight ways", "refused")
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


@pytest.mark.fault("Python sandbox", "sockets of other programs", "not reached")
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


@pytest.mark.fault("Python sandbox", "forged replies", "discarded, or the call's own output")
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
    worker = psutil.Process(session.interpreter._worker.pid)
    used = worker.cpu_times().user
    await asyncio.sleep(0.3)
    assert worker.status() == psutil.STATUS_STOPPED and worker.cpu_times().user == used
    assert re.fullmatch(OVER_CPU, await tool.call(session, "1"))
    await still_works(tool, session, lost=True)


WAITS = ("import time; time.sleep(99)", "import os; os.read(3, 1)", "import signal; signal.pause()", "SILENT")


@pytest.mark.fault("Python sandbox", "code that waits for ever", "stopped after wall_s")
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
