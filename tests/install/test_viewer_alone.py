"""The viewer alone: installed as docs/viewer.md says, in an empty environment, it opens a dump without verl."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path

import pytest

from tests.assets.installed import repository_files, strangers_environment
from tests.assets.main_ppo import free_port
from tests.assets.python_path import ROOT
from verl_atpo.view.__main__ import REQUIREMENTS
from verl_atpo.view.demo import write_demo

PAGE = (ROOT / "docs" / "viewer.md").read_text()
LINES = [each.partition("  #")[0].strip() for each in re.findall(r"^ {4}(pip install \S.*)$", PAGE, re.MULTILINE)]
ALONE = 'pip install "git+$REPO#subdirectory=verl_atpo/view"'
HEAVY = ("torch", "verl", "ray", "vllm", "transformers", "numpy")
NO_INDEX = ("No matching distribution", "Could not find a version", "Failed to establish", "Temporary failure")


def run(*command: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**strangers_environment(), **variables}
    return subprocess.run(
        ["bash", "-euc", " ".join(command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository of what is in the checkout, committed or not."""
    folder = tmp_path_factory.mktemp("repository")
    archive = folder / "all.tar"
    with tarfile.open(archive, "w") as tar:
        for name in sorted(repository_files()):
            if name.startswith(("verl_atpo/", "setup.py", "README.md", "pyproject.toml", "LICENSE", "MANIFEST.in")):
                tar.add(ROOT / name, name)
    made = run(f"mkdir repo && tar xf {archive} -C repo && cd repo && git init -q && git add -A &&"
               " git -c user.name=a -c user.email=a@b.c commit -q -m all", cwd=folder)  # fmt: skip
    assert made.returncode == 0, made.stderr
    return folder / "repo"


def test_the_page_has_a_line_for_each_kind_of_machine() -> None:
    assert REQUIREMENTS.is_file()
    assert ALONE in LINES and 'pip install "verl-atpo[view] @ git+$REPO"' in LINES and len(LINES) == 2
    assert not [line for line in LINES if "git+$REPO" not in line]  # the names are on no index


def test_nothing_is_installed_by_a_name_that_no_index_has() -> None:
    files = [
        ROOT / name for name in repository_files() if name.startswith(("docs/", "verl_atpo/", "README", "examples/"))
    ]
    texts = {file: file.read_text() for file in files if file.suffix in (".md", ".py", ".sh")}
    lines = [(file, line) for file, text in texts.items() for line in text.splitlines() if "verl-atpo[" in line]
    assert len(lines) >= 4
    assert [(file, line) for file, line in lines if "pip install" in line and "git+" not in line] == []


@pytest.fixture(scope="module")
def alone(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment into which the page's line for a laptop was run."""
    folder = tmp_path_factory.mktemp("laptop") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    command = ALONE.replace("pip ", f"{folder}/bin/pip -q ", 1)
    done = run(command, cwd=folder, REPO=f"file://localhost{repository}")
    if done.returncode and any(words in done.stderr for words in NO_INDEX):
        pytest.skip(f"no package index: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_it_opens_a_dump_without_verl_torch_or_ray(alone: Path, tmp_path: Path) -> None:
    write_demo(tmp_path / "run", 12)
    listed = run(f"{alone}/bin/pip list --format=freeze", cwd=tmp_path).stdout.lower()
    assert "verl-atpo-view" in listed and "nicegui" in listed
    assert not [name for name in HEAVY if re.search(rf"^{name}(-cpu)?==", listed, re.MULTILINE)]
    exported = run(f"{alone}/bin/verl-atpo-view run --export tree.html --cache cache", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr[-3000:]
    assert "<svg" in (tmp_path / "tree.html").read_text()
    assert run(f"{alone}/bin/verl-atpo-view run --export tree.png --cache cache", cwd=tmp_path).returncode == 0
    port = free_port()
    command = [f"{alone}/bin/verl-atpo-view", "run", "--port", str(port), "--no-browser", "--cache", "cache"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=strangers_environment(), stdout=subprocess.PIPE, text=True
    ) as viewer:
        try:
            assert viewer.stdout is not None and str(port) in viewer.stdout.readline()
            with urllib.request.urlopen(wait_for(port), timeout=60) as page:
                assert b"verl_atpo" in page.read()
        finally:
            viewer.terminate()


def wait_for(port: int) -> str:
    from tests.assets.browser import answers, wait_until

    address = f"http://127.0.0.1:{port}/"
    wait_until(lambda: answers(address), 60)
    return address


def test_the_line_for_a_training_machine_brings_the_viewer_and_keeps_verl(repository: Path, tmp_path: Path) -> None:
    line = next(each for each in LINES if "verl-atpo[view]" in each)
    offline = {"PIP_NO_DEPS": "1", "PIP_TARGET": str(tmp_path / "site"), "REPO": f"file://localhost{repository}"}
    done = run(line.replace("pip ", f"{sys.executable} -m pip -q ", 1), cwd=tmp_path, **offline)
    if done.returncode and any(words in done.stderr for words in NO_INDEX):
        pytest.skip(f"no package index: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr[-3000:]
    (metadata,) = (tmp_path / "site").glob("verl_atpo-*.dist-info/METADATA")
    needed = re.findall(r"^Requires-Dist: (.*)$", metadata.read_text(), re.MULTILINE)
    assert any(each.startswith("verl") and "extra" not in each for each in needed)
    wanted = (ROOT / "verl_atpo" / "view" / "requirements.txt").read_text().split()
    of_view = {re.split(r"[<>=;~ ]", each)[0].lower() for each in needed if 'extra == "view"' in each}
    assert {re.split(r"[<>=]", each)[0] for each in wanted} == of_view
    assert (tmp_path / "site" / "verl_atpo" / "render" / "templates" / "tree.html").is_file()


def test_the_viewer_imports_nothing_heavy() -> None:
    code = (
        "import sys, verl_atpo.view.server, verl_atpo.view.__main__, verl_atpo.view.demo, verl_atpo.render.export\n"
        "rooms = ('verl_atpo.view', 'verl_atpo.render', 'verl_atpo.report')\n"
        f"print(*(set(sys.modules) & {set(HEAVY) - {'numpy'}}), *(name for name in sys.modules if "
        "name.startswith('verl_atpo.') and not name.startswith(rooms)))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr[-2000:]


def test_nothing_that_trains_imports_the_viewer() -> None:
    found = [
        file.relative_to(ROOT)
        for file in (ROOT / "verl_atpo").rglob("*.py")
        if "view" not in file.parts and re.search(r"(from|import) verl_atpo\.view", file.read_text())
    ]
    assert found == []
