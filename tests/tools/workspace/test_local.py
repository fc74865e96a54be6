"""Workspaces on this machine: commands, files, snapshots and forks, in every way that works here."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from tests.assets.python_path import ROOT
from tests.assets.workspaces import make_provider
from verl_atpo.settings import ConfigError, read
from verl_atpo.tools.workspace import Completed, LocalProvider, WorkspaceConfig, WorkspaceError


def test_a_command_runs_in_the_folder_and_its_output_is_taken_in_order(provider: LocalProvider):
    with provider.create(files={"folder/hello.txt": "hello\n"}) as workspace:
        command = "pwd; cat folder/hello.txt; ls none 2>&1 >/dev/null; echo err >&2; echo out; exit 3"
        done = workspace.run(command)
        assert done.stopped is None and done.exit_code == 3
        lines = done.text.splitlines()
        assert lines[:2] == ["/workspace", "hello"] and "none" in lines[2] and lines[3:] == ["err", "out"]


def test_files_stay_from_command_to_command_also_temporary_ones(provider: LocalProvider):
    with provider.create() as workspace:
        workspace.run('mkdir a; echo 1 > a/b; echo 2 > "$TMPDIR/c"')
        assert workspace.run('cat a/b "$TMPDIR/c"') == Completed(b"1\n2\n", 0)


def test_neither_side_of_a_fork_sees_what_the_other_writes_later(provider: LocalProvider):
    with provider.create(files={"same": "same\n", "gone": "", "folder/inner": "inner\n"}) as workspace:
        workspace.run("echo before > changed")
        with provider.fork(workspace) as fork:
            workspace.run("echo here >> changed; echo here >> same; rm -r folder; touch new")
            fork.run("echo there >> changed; rm gone; mkdir folder/deeper")
            assert workspace.run("cat changed same; ls") == Completed(
                b"before\nhere\nsame\nhere\nchanged\ngone\nnew\nsame\n", 0
            )
            assert fork.run("cat changed same; ls . folder").text == (
                "before\nthere\nsame\n.:\nchanged\nfolder\nsame\n\nfolder:\ndeeper\ninner\n"
            )


def test_writing_in_place_changes_no_snapshot(provider: LocalProvider):
    with provider.create(files={"file": "one\n"}) as workspace:
        first = workspace.snapshot()
        workspace.run("printf two | dd of=file conv=notrunc 2>/dev/null")
        second = workspace.snapshot()
        workspace.run("printf xyz | dd of=file conv=notrunc 2>/dev/null; chmod 600 file")
        for snapshot, text in ((first, "one\n"), (second, "two\n"), (first, "one\n")):
            with provider.restore(snapshot) as restored:
                assert restored.read("file") == text.encode()
                restored.run("printf 000 | dd of=file conv=notrunc 2>/dev/null")


def test_a_snapshot_outlives_its_workspace(provider: LocalProvider):
    workspace = provider.create(files={"file": "text"})
    snapshot = workspace.snapshot()
    workspace.close()
    workspace.close()
    with pytest.raises(WorkspaceError, match="closed"):
        workspace.run("true")
    with provider.restore(snapshot) as restored:
        assert restored.read("file") == b"text"


def test_files_are_read_and_written_whatever_their_names(provider: LocalProvider):
    names = ("-n", "a b", "$(touch pwned)", "quote'd\"", "deep/er/and deeper", "*", "\u00fc\n.txt")
    with provider.create() as workspace:
        for name in names:
            workspace.write(name, name.encode() * 100)
        assert [workspace.read(name) for name in names] == [name.encode() * 100 for name in names]
        assert workspace.run("ls pwned").exit_code != 0


def test_a_template_is_a_folder_and_stays_as_it_is(provider: LocalProvider, tmp_path: Path):
    template = tmp_path / "template"
    (template / "src").mkdir(parents=True)
    (template / "src" / "a.py").write_text("a = 1\n")
    (template / "link").symlink_to("src/a.py")
    (template / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (template / "run.sh").chmod(0o755)
    for _ in range(2):
        with provider.create(str(template), {"src/b.py": "b = 2\n"}) as workspace:
            assert workspace.run("./run.sh; cat link src/b.py; echo x >> link; rm run.sh").text == "ran\na = 1\nb = 2\n"
    assert (template / "src" / "a.py").read_text() == "a = 1\n" and (template / "run.sh").exists()
    with pytest.raises(WorkspaceError, match="no such folder"):
        provider.create(str(tmp_path / "none"))


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", "a//b", "."])
def test_a_file_that_leads_elsewhere_is_refused(provider: LocalProvider, path: str):
    with pytest.raises(WorkspaceError, match="no relative path"):
        provider.create(files={path: "text"})


PYTHON_OF_COMMANDS = """
import sys
from verl_atpo.tools.workspace import LocalProvider, WorkspaceConfig
provider = LocalProvider(WorkspaceConfig(isolation="bubblewrap", technique="copy", folder=sys.argv[1]))
with provider.create() as workspace:
    print(workspace.run("python -c 'import sys; print(sys.prefix)'; ls -A /tmp").output)
provider.close()
"""


def test_an_environment_below_the_folder_for_temporary_files_is_seen_elsewhere(tmp_path: Path):
    make_provider(("bubblewrap", "copy"), tmp_path).close()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", f"{folder}/venv"], check=True, timeout=120)
        packages = os.pathsep.join((str(ROOT), sysconfig.get_path("purelib")))
        command = [f"{folder}/venv/bin/python", "-W", "ignore", "-c", PYTHON_OF_COMMANDS, str(tmp_path)]
        variables = {**os.environ, "PYTHONPATH": packages}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1:] == [r"b'/environment\n'"], done.stderr[-3000:]


def test_what_a_folder_of_the_commands_covers_is_refused(tmp_path: Path):
    make_provider(("bubblewrap", "copy"), tmp_path).close()
    config = read(WorkspaceConfig, {"isolation": "bubblewrap", "readable": ["/tmp/tools"]}, "workspace")
    with pytest.raises(ConfigError, match="/tmp/tools lies below /tmp, where commands have files of their own"):
        LocalProvider(config)
