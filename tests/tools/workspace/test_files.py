"""Trees of files: what a snapshot costs, merged layers, deep and locked folders, and folders that a crash leaves."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.assets.browser import wait_until
from tests.assets.workspaces import make_provider
from verl_atpo.tools.workspace import LocalProvider, overlay
from verl_atpo.tools.workspace.store import Store
from verl_atpo.tools.workspace.trees import DEEPEST, TooDeep, measure, remove, walk, write_files

CRASHING = """
import sys, threading, time
from verl_atpo.tools.workspace import LocalProvider, WorkspaceConfig
provider = LocalProvider(WorkspaceConfig(folder=sys.argv[1], isolation=sys.argv[2]))
workspace = provider.create(files={"file": "x"})
threading.Thread(target=workspace.run, args=("touch begun; sleep 1234",), daemon=True).start()
while not any((part / "begun").exists() for part in provider.folder.glob("*/f")): time.sleep(0.01)
print("ready", flush=True)
time.sleep(60)
"""


def inodes(folder: Path) -> dict[int, int]:
    return {entry.info.st_ino: entry.info.st_size for entry in walk(folder) if not entry.is_folder}


def test_a_snapshot_of_copies_copies_what_has_changed(tmp_path: Path):
    provider = make_provider(("bubblewrap", "copy"), tmp_path)
    with provider.create(files={f"{number}": "x" * 10_000 for number in range(20)}) as workspace:
        first = workspace.snapshot()
        time.sleep(0.1)
        before = inodes(provider.folder)
        workspace.run("echo more >> 3; echo new > new")
        time.sleep(0.1)  # a file that changed just now is copied again
        second = workspace.snapshot()
        added = {inode: size for inode, size in inodes(provider.folder).items() if inode not in before}
        assert sum(added.values()) < 25_000  # one file and a small one, here and in the snapshot
        assert workspace.snapshot() is second is not first
    provider.close()


def test_unused_snapshots_leave_the_disk(provider: LocalProvider):
    with provider.create() as workspace:
        for number in range(5):
            workspace.run(f"echo {number} > file")
            workspace.snapshot()
        gc.collect()
        deadline = time.monotonic() + 10
        while len(os.listdir(provider.folder)) > 14 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert workspace.run("cat file").text == "4\n"


def test_many_layers_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(overlay, "MOST_LAYERS", 3)
    provider = make_provider(("bubblewrap", "overlay"), tmp_path)
    template = {"kept": "kept\n", "gone": "1", "folder/a": "a", "folder/b": "b", "again/old": "old"}
    with provider.create(files=template) as workspace:
        for step in (
            "rm gone; mkdir new",
            "rm -r again; mkdir again; echo c > folder/c",
            "rm folder/a; mv new newer; touch again/new",
            "ln -s kept link; chmod 700 folder",
            "rm -r folder; echo now a file > folder",
            "rm folder; mkdir folder; touch folder/last",
        ):
            workspace.run(step)
            workspace.snapshot()
        look = r"find . -printf '%p %y %m %l\n' | LC_ALL=C sort"
        seen = workspace.run(look).text
        with provider.fork(workspace) as fork:
            assert fork.run(look).text == seen
        names = [line.split()[0] for line in seen.splitlines()]
        assert names == [".", "./again", "./again/new", "./folder", "./folder/last", "./kept", "./link", "./newer"]
        assert len(workspace.snapshot().stack()) <= 5
    provider.close()


def test_layers_and_copies_show_the_same_after_any_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(overlay, "MOST_LAYERS", 2)
    draw = random.Random(7)
    names = ["a", "b", "a/c", "a/d", "a/c/e", "b/f"]
    providers = [make_provider(("bubblewrap", technique), tmp_path) for technique in ("overlay", "copy")]
    template = {"a/c/e": "e", "a/d": "d", "b/f": "f", "g": "g"}
    workspaces = [provider.create(files=template) for provider in providers]
    look = r"find . -printf '%p %y %m %l\n' | LC_ALL=C sort; find . -type f | LC_ALL=C sort | xargs cat"
    for step in range(30):
        name, other = draw.sample(names, 2)
        changes = (
            f"rm -rf {name}",
            f"mkdir -p {name}",
            f"echo {step} > {name}",
            f"mv {name} {other}",
            f"echo {step} >> {name}",
            f"rm -rf {name}; mkdir -p {name}; echo {step} > {name}/new",
            f"ln -sfn {other} {name}",
            f"chmod 700 {name}",
        )
        command = f"({'; '.join(draw.sample(changes, 2))}) 2>/dev/null; {look}"
        shown = [workspace.run(command).text for workspace in workspaces]
        assert shown[0] == shown[1], f"step {step}: {command}"
        if step % 2:
            forks = [providers[n].fork(workspaces[n]) for n in range(2)]
            for workspace in workspaces:
                workspace.close()
            workspaces = forks
            assert [workspace.run(look).text for workspace in workspaces] == shown, f"fork after step {step}"
    for provider in providers:
        provider.close()


def test_trees_of_any_depth_and_mode_are_removed(tmp_path: Path):
    top = tmp_path / "top"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d" * 20, dir_fd=here)
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (top / "locked").mkdir()
    (top / "locked" / "file").touch()
    (top / "locked").chmod(0)
    with pytest.raises(TooDeep, match=f"more than {DEEPEST} deep"):
        measure(top)
    assert len(list(walk(top, cut=True))) == DEEPEST + 2
    assert measure(top).files == DEEPEST + 1
    remove(top)
    assert not top.exists()
    remove(top)


def test_a_walk_follows_no_link(tmp_path: Path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "file").write_text("x" * 100_000)
    (inside / "folder").symlink_to(outside)
    (inside / "file").symlink_to(outside / "file")
    assert measure(inside).files == 2 and measure(inside).bytes < 100_000
    for path in ("folder/file", "file"):
        with pytest.raises(ValueError, match="cannot be written"):
            write_files(inside, {path: b"changed"})
    remove(inside)
    assert (outside / "file").read_text() == "x" * 100_000


def sleeps(parent: int) -> bool:
    """Return whether the command's last part runs below a process."""
    for each in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # one that has just ended
            if each.cmdline()[:2] == ["sleep", "1234"]:
                return True
    return False


@pytest.mark.parametrize("isolation", ["bubblewrap", "landlock"])
def test_a_crash_leaves_nothing(tmp_path: Path, isolation: str):
    make_provider((isolation, "copy"), tmp_path).close()
    command = [sys.executable, "-c", CRASHING, str(tmp_path), isolation]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        assert wait_until(lambda: sleeps(process.pid), 30)  # the shell may still be about to start it
        mine = psutil.Process(process.pid).children(recursive=True)
        (left,) = (each for each in tmp_path.glob("atpo-*/*"))
        process.send_signal(signal.SIGKILL)
    gone, alive = psutil.wait_procs(mine, timeout=20)
    assert not alive and gone and left.exists()
    other = Store(str(tmp_path))
    assert not left.exists()
    second = Store(str(tmp_path))
    assert other.root.exists() and second.root.exists()  # one in use stays
    for each in (other, second):
        each.close()
    assert not list(tmp_path.glob("atpo-*/*"))
