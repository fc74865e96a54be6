"""sdist and wheel are built, installed outside the checkout, and used there as the documentation says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import textwrap
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from tests.assets.installed import Installed, repository_files, strangers_environment
from tests.assets.main_ppo import ASSETS, free_port
from tests.assets.python_path import ROOT

DOCS = [file for name in ("*.md", "docs/**/*.md", "examples/**/*.md", "recipes/**/*.md") for file in ROOT.glob(name)]
START_S = 90.0


@pytest.fixture(scope="module")
def installed(archives: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed.of(archives[1], tmp_path_factory.mktemp("elsewhere") / "venv")


def test_the_sdist_is_the_repository(archives):
    with tarfile.open(archives[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"LICENSE", "tests/run.sh", "tests/install/test_installed.py"} <= names
    assert repository_files() <= names


def test_the_wheel_is_the_package_and_nothing_else(archives):
    with zipfile.ZipFile(archives[1]) as wheel:
        names = set(wheel.namelist())
    package = {name for name in repository_files() if name.startswith("verl_atpo/")}
    assert {"verl_atpo/py.typed", "verl_atpo/view/static/view.css", "verl_atpo/search_qa/search.yaml"} <= package
    metadata = names - package
    assert package <= names
    assert all(re.match(r"verl_atpo-[\d.]+\.dist-info/", name) for name in metadata)
    assert any(name.endswith("LICENSE") for name in metadata)


def test_verl_and_vllm_find_it(installed, archives):
    probe = (ASSETS / "installed_probe.py").read_text()  # not the file: its folder would be on the path
    done = installed.run("python", "-W", "ignore", "-c", probe, str(ROOT))
    assert done.returncode == 0, done.stderr[-3000:]
    version, *presets = done.stdout.splitlines()[-1].split()
    assert f"verl_atpo-{version}" in archives[1].name
    assert {"atpo=tree", "platform=cpu", "train=packed"} <= set(presets)


def documented_commands() -> list[str]:
    """Modules and programs of the package that the documentation tells a reader to run."""
    said = "\n".join(file.read_text() for file in DOCS)
    modules = {f"python -m {name.rstrip('.')}" for name in re.findall(r"python -m (verl_atpo(?:\.\w+)+)", said)}
    return sorted(modules | set(re.findall(r"\bverl-atpo-[a-z]+", said)))


def test_there_are_commands():
    assert {"verl-atpo-view", "python -m verl_atpo.view", "python -m verl_atpo.search_qa.retriever"} <= set(
        documented_commands()
    )


@pytest.mark.parametrize("command", documented_commands())
def test_what_the_documentation_tells_to_run_is_there(installed, command):
    done = installed.run(*command.split(), "--help")
    assert done.returncode == 0 and "usage:" in done.stdout.lower(), done.stderr[-3000:]


def wait_for(address: str, process: subprocess.Popen[str]) -> bytes:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(address, timeout=START_S) as answer:
                return answer.read()
        except urllib.error.URLError:
            assert process.poll() is None and time.monotonic() < deadline, f"nothing at {address}"
            time.sleep(0.2)


def test_the_viewer_has_its_files(installed):
    process = installed.start("verl-atpo-view", "--demo", "--port", str(port := free_port()), "--no-browser")
    try:
        page = wait_for(f"http://127.0.0.1:{port}/", process).decode()
    finally:
        process.kill()
        process.wait()
    style = (ROOT / "verl_atpo" / "view" / "static" / "view.css").read_text()
    assert style.split("{")[0].strip() in page
    tree = installed.run("verl-atpo-view", "--demo", "--export", "tree.html")
    assert tree.returncode == 0, tree.stderr[-3000:]
    assert "<svg" in (installed.folder / "tree.html").read_text()


def test_the_retriever_serves(installed):
    corpus = installed.folder / "corpus.jsonl"
    texts = ["Ada\\nAda wrote programs.", "Bee\\nA bee makes honey."]
    corpus.write_text("".join(f'{{"id": "{number}", "contents": "{text}"}}\n' for number, text in enumerate(texts)))
    words = ["--corpus", str(corpus), "--port", str(port := free_port())]
    process = installed.start("python", "-m", "verl_atpo.search_qa.retriever", *words)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/retrieve",
            json.dumps({"queries": ["honey"], "topk": 1}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=START_S) as answer:
            assert "bee makes honey" in answer.read().decode()
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_a_type_checker_reads_the_types(installed, tmp_path):
    (tmp_path / "use.py").write_text(
        textwrap.dedent("""
        from verl_atpo.method.expansion import uncertainty_score
        uncertainty_score("a tree", 0, None)
        """)
    )
    command = [sys.executable, "-m", "mypy", "--python-executable", str(installed.folder / "bin" / "python"), "use.py"]
    environment = strangers_environment()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert 'use.py:3: error: Argument 1 to "uncertainty_score" has incompatible type "str"' in done.stdout, done.stdout
