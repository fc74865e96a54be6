"""The docs site is built with broken links as errors, and holds every page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "zensical.toml"
NOT_SHOWN = {"docs/results/smollm2_trees.md"}
"""Pages that one other page links to."""


def in_nav(entry: object) -> list[str]:
    match entry:
        case str(page):
            return [page]
        case list(entries):
            return [page for each in entries for page in in_nav(each)]
        case dict(named):
            return in_nav(list(named.values()))
    raise AssertionError(entry)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built by the command of the docs."""
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", "docs/build.sh"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return ROOT / "build" / "site"


def test_a_page_with_a_name_in_the_navigation_has_it_as_its_title():
    named = {
        page: name
        for entry in tomllib.loads(CONFIG.read_text())["project"]["nav"]
        for name, page in entry.items()
        if isinstance(page, str)
    }
    assert len(named) > 3
    assert {page: (CONFIG.parent / page).read_text().split("\n")[0] for page in named} == {
        page: f"# {name}" for page, name in named.items()
    }


def test_every_page_is_in_the_navigation_and_on_the_site(site: Path):
    pages = in_nav(tomllib.loads(CONFIG.read_text())["project"]["nav"])
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert there - NOT_SHOWN <= set(pages) and len(pages) > 30
    for page in pages:
        made = page.replace("README.md", "index.md").removesuffix(".md") + ".html"
        assert (site / made).stat().st_size > 1000, page


def test_docstrings_are_on_the_pages_of_the_code(site: Path):
    assert "Clipped turn-level policy loss" in (site / "docs" / "api" / "method.html").read_text()
    for page in (site / "docs" / "api").glob("*.html"):
        assert ":class:" not in page.read_text() and ":func:" not in page.read_text(), page.name
    assert "later calls do not change" in (site / "docs" / "api" / "tools.html").read_text()


@pytest.mark.parametrize("link, builds", [("index.md#here", 0), ("nowhere.md", 1), ("index.md#nowhere", 1)])
def test_a_broken_link_is_an_error(link: str, builds: int, tmp_path: Path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Here\n\n[there]({link})\n")
    (tmp_path / "zensical.toml").write_text('[project]\nsite_name = "x"\n')
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=tmp_path, capture_output=True, timeout=120
    )
    assert built.returncode == builds
