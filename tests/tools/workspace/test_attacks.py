"""Workspaces, attacked for real in both isolations: escapes, and more of the machine than a command may take."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.assets.workspaces import make_provider
from verl_atpo.tools.workspace import LocalProvider

ME = os.getpid()
DENIED = (
    r"Permission denied|Operation not permitted|No such file|Read-only file system|[Cc]ross-device|Not a directory|"
    r"No such process|PermissionError|Invalid argument|Function not implemented|only root|superuser|mount:"
)
SECRET = "correct horse battery staple"
CALLS = {
    "io_uring_setup": 425, "clone3": 435, "userfaultfd": 323, "bpf": 321, "perf_event_open": 298, "keyctl": 250,
    "fsopen": 430, "open_tree": 428, "process_vm_readv": 310, "pidfd_getfd": 438, "memfd_secret": 447, "setns": 308,
    "memfd_create": 319, "ptrace": 101, "mount": 165, "kexec_load": 246, "shmget": 29, "open_by_handle_at": 304,
    "init_module": 175, "settimeofday": 164, "quotactl": 179, "syslog": 103, "chroot": 161, "unshare": 272,
}  # fmt: skip


def python(code: str) -> str:
    return f"python3 -c '{code}'"


# What the model reads; an attack that got through must not harm the machine that runs the tests.
ESCAPES: dict[str, tuple[str, str]] = {
    "path upwards": ("cat ../../../../../../etc/shadow", DENIED),
    "absolute path": ("cat /etc/shadow", DENIED),
    "link to a file": ("ln -s /etc/shadow link && cat link", DENIED),
    "link to the trainer's files": (f"ln -s {Path(__file__)} link && cat link", DENIED),
    "link to the root of a process": (f"ln -s /proc/{ME}/root link && ls link/", DENIED),
    "hard link to a program": ("ln /usr/bin/env link", DENIED),
    "moving a file out": ("touch x && mv x /usr/atpo_was_here", DENIED),
    "writing to the system": ("echo x > /usr/bin/atpo_was_here", DENIED),
    "writing to the root": ("echo x > /atpo_was_here", DENIED),
    "writing to /etc": ("echo x > /etc/atpo_was_here", DENIED),
    "writing to /dev": ("echo x > /dev/atpo_was_here", DENIED),
    "writing to Python's files": (f"echo x > $({python('import sys; print(sys.prefix)')})/atpo_was_here", DENIED),
    "settings of the kernel": ('x="$(cat /proc/sys/kernel/printk)"; echo "$x" > /proc/sys/kernel/printk', DENIED),
    "requests to the kernel": (python('import os; os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY))'), DENIED),
    "the administrator's rights": (
        "id -u; cat /proc/self/status | grep -q 'CapEff:.*[1-9a-f]' && echo has rights",
        r"^(1000|0)\n(?!has rights)",
    ),
    "a signal to the trainer": (f"kill -0 {ME}", DENIED),
    "memory of the trainer": (f"head -c 1 /proc/{ME}/mem", DENIED),
    "environment of the trainer": (f"cat /proc/{ME}/environ", DENIED),
    "working folder of the trainer": (f"ls /proc/{ME}/cwd/", DENIED),
    "a namespace of its own": ("unshare --user --map-root-user true", DENIED),
    "a mount": ("mount -t tmpfs none .", DENIED),
    "another root": ("chroot / true", DENIED),
    "a device": ("mknod disk b 254 0", DENIED),
    "messages of the kernel": ("dmesg", DENIED),
    "descriptors that were left open": (
        python('import os; print([n for n in range(3, 256) if os.path.exists(f"/dev/fd/{n}") and n > 3])'),
        r"\[\]",
    ),
    "memory that no limit counts": (python("import mmap; mmap.mmap(-1, 1 << 20)"), DENIED),
    "higher limits": (
        python("import resource; resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))"),
        "not allowed to raise|ValueError",
    ),
    "killing its parent": ("kill -KILL $PPID; sleep 0.5; echo alive", "alive"),
}
if os.uname().machine == "x86_64":
    listed = ", ".join(map(str, CALLS.values()))
    ESCAPES["rare system calls"] = (
        python(
            f"import ctypes; c = ctypes.CDLL(None).syscall; print([n for n in ({listed}) if c(n, 0, 0, 0, 0, 0) != -1])"
        ),
        r"\[\]",
    )

LIMITS: dict[str, tuple[str, str]] = {
    "fork bomb": ("bomb() { bomb | bomb & }; bomb; sleep 60", "started more than 40 processes|Resource temporarily"),
    "thread bomb": (
        python("import threading, time\nfor _ in range(200): threading.Thread(target=time.sleep, args=(60,)).start()"),
        "started more than 40 processes|can't start new thread",
    ),
    "memory of one process": (python("bytearray(1 << 30)"), "MemoryError"),
    "memory of many processes": (
        "for i in 1 2 3 4 5 6; do python3 -c 'x = bytearray(100 << 20); import time; time.sleep(60)' & done; wait",
        "used more than 300 MiB of memory",
    ),
    "one large file": ("head -c 100M /dev/zero > file", "File size limit exceeded|more than 8 MiB|exit code 153"),
    "a large hole": ("truncate -s 1T file", "File too large|File size limit exceeded|exit code 153"),
    "many large files": (
        "for i in $(seq 60); do head -c 1M /dev/zero > $i; sleep 0.02; done; sleep 60",
        "take more than 8 MiB",
    ),
    "large temporary files": (
        'for i in $(seq 60); do head -c 1M /dev/zero > "$TMPDIR/$i"; sleep 0.02; done; sleep 60',
        "take more than 8 MiB",
    ),
    "files without a name": (
        python(
            "import os, time\nfor n in range(20):\n    f = os.open(str(n), os.O_CREAT | os.O_RDWR)\n"
            "    os.unlink(str(n))\n    os.write(f, bytes(1 << 20))\ntime.sleep(60)"
        ),
        "take more than 8 MiB",
    ),
    "many files": ("i=0; while true; do : > f$i; i=$((i+1)); done", "more than 300 new files"),
    "deep folders": (
        python('import os\nfor _ in range(250):\n    os.mkdir("d"); os.chdir("d")\nimport time; time.sleep(60)'),
        "too many folders inside one another",
    ),
    "endless output": ("yes", "wrote more than 16 MiB of output"),
    "deaf to signals": ('trap "" TERM INT HUP QUIT; while :; do :; done', "ran longer than 6 s"),
    "silent after closing its output": ("exec >&- 2>&- <&-; sleep 60", "ran longer than 6 s"),
    "daemon": ("setsid -f sleep 60; (setsid sleep 60 &) ; echo on", "on"),
    "stopped by itself": ("kill -STOP $$", "ran longer than 6 s"),
}


@pytest.fixture(scope="module", params=[("bubblewrap", "overlay"), ("landlock", "copy")], ids=lambda way: way[0])
def provider(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalProvider]:
    made = make_provider(request.param, tmp_path_factory.mktemp("workspaces"), wall_s=6.0)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_is_left(provider: LocalProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRAINER_SECRET", SECRET)
    me = psutil.Process()
    mine, descriptors = set(me.children(recursive=True)), me.num_fds()
    yield
    deadline = time.monotonic() + 20  # folders are removed by a thread, which opens them
    while (now := me.num_fds()) > descriptors and time.monotonic() < deadline:
        time.sleep(0.02)
    assert set(me.children(recursive=True)) == mine and now <= descriptors
    for process in psutil.process_iter():  # those that left the group, which only Landlock could let happen
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            assert str(provider.folder) not in process.environ().get("HOME", "")


@pytest.mark.parametrize("name", ESCAPES)
def test_an_escape_is_refused(provider: LocalProvider, name: str):
    command, expected = ESCAPES[name]
    with provider.create() as workspace:
        done = workspace.run(command)
        assert done.stopped is None and re.search(expected, done.text), done
        assert SECRET not in done.text
        assert workspace.run("echo on").text == "on\n"


@pytest.mark.parametrize("name", LIMITS)
def test_more_than_allowed_is_stopped_and_said(provider: LocalProvider, name: str):
    command, expected = LIMITS[name]
    if provider.jail.mounts:
        command = command.replace("$TMPDIR", "/tmp")
    with provider.create() as workspace:
        done = workspace.run(command)
        said = f"{done.text} {done.stopped or ''} exit code {done.exit_code}"
        assert re.search(expected, said), done
        workspace.run('rm -rf ./* "$TMPDIR"/*')
        assert workspace.run("echo on").text == "on\n"
        assert workspace.run("echo on").stopped is None


def test_no_connection_reaches_the_trainer(provider: LocalProvider, tmp_path: Path):
    reached = []
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        named.bind(str(tmp_path / "socket"))
        abstract.bind(f"\0atpo_{ME}")
        for each in (server, named, abstract):
            each.listen()
            each.settimeout(0.5)

        def accept(listener: socket.socket) -> None:
            with contextlib.suppress(OSError):
                reached.append(listener.accept())

        threads = [threading.Thread(target=accept, args=(each,)) for each in (server, named, abstract)]
        for thread in threads:
            thread.start()
        places = f'(2, ("127.0.0.1", {server.getsockname()[1]})), (1, "{tmp_path / "socket"}"), (1, "\\0atpo_{ME}")'
        code = (
            f"import socket\nfor family, place in ({places}):\n"
            '    try:\n        socket.socket(family).connect(place)\n        print("reached", place)\n'
            "    except OSError as error: print(error.errno)"
        )
        with provider.create() as workspace:
            done = workspace.run(python(code))
        for thread in threads:
            thread.join()
    assert not reached and "reached" not in done.text and len(done.text.split()) == 3, done


def test_rights_and_times_of_files_outside_stay(provider: LocalProvider, tmp_path: Path):
    file = tmp_path / "trainers"
    file.write_text("x")
    before = file.stat()
    with provider.create() as workspace:
        for command in (
            "chmod 777",
            "chown 1",
            "chgrp 1",
            "touch -d 2001-01-01",
            "truncate -s 0",
            "setfattr -n user.x",
        ):
            workspace.run(f"{command} {file}")
        workspace.run(f"ln -s {file} link; chmod 777 link; touch -d 2001-01-01 link")
    assert file.stat() == before and not os.listxattr(file)


def test_the_trainers_priority_and_cores_stay(provider: LocalProvider):
    before = os.getpriority(os.PRIO_PROCESS, ME), os.sched_getaffinity(ME)
    with provider.create() as workspace:
        workspace.run(f"renice -n 19 -p {ME}")
        workspace.run(python(f"import os; os.sched_setaffinity({ME}, [0])"))
    assert (os.getpriority(os.PRIO_PROCESS, ME), os.sched_getaffinity(ME)) == before


def test_a_path_reveals_neither_the_machine_nor_the_run(provider: LocalProvider):
    with provider.create() as workspace:
        seen = workspace.run("pwd; echo $HOME $TMPDIR; hostname; cat /proc/self/cmdline /proc/1/cmdline | tr '\\0' ' '")
    assert str(provider.config.folder) not in seen.text and SECRET not in seen.text
