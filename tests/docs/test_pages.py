"""What README and docs say of settings, metrics, files and wraps is what the code has; every link leads somewhere."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.assets.fakes import FakeEngine, FakeLoop
from tests.assets.growing import config_of, grow_tree
from verl_atpo.config import AtpoConfig
from verl_atpo.report.metrics import PREFIX, WorkerStats, step_metrics, tree_stats
from verl_atpo.rollout.manager import USELESS
from verl_atpo.startup.presets import ATPO_PRESETS, PRESETS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [
    ROOT / line
    for line in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
METRIC = r"(actor/)?(atpo|packed)/[a-z_]+(/[a-z]+)?"
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def table(page: str, heading: str) -> list[list[str]]:
    """Rows of the first table below a heading, without its head, as cells."""
    text = f"\n{(ROOT / 'docs' / page).read_text()}".partition(f"\n{heading}")[2]
    lines = text.split("\n|", 1)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def tables(page: str, heading: str) -> list[list[str]]:
    """Rows of all tables in the section of a heading, without their heads, as cells."""
    level = heading.split()[0]
    section = f"\n{(ROOT / 'docs' / page).read_text()}".partition(f"\n{heading}")[2].split(f"\n{level} ")[0]
    bodies = re.findall(r"^\|[ -]+\|[-| ]*\n((?:\|.*\n)+)", section, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for body in bodies for row in body.splitlines()]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as they are made on the web: lower case, hyphens for spaces, no punctuation."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_there_are_pages():
    assert len(PAGES) > 20 and README in PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path):
    for name, anchor in LINK.findall(CODE.sub("", page.read_text())):
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} names {name}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} names {name}#{anchor}"


@pytest.mark.parametrize("name", ["README.md", "docs/method.md", "docs/wraps.md", "CONTRIBUTING.md"])
def test_every_file_that_is_named_is_there(name: str):
    named = {word for word in quoted((ROOT / name).read_text()) if re.fullmatch(r"[\w/]+\.(py|sh|json|md)", word)}
    assert named
    known = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if ".venv" not in path.parts]
    for word in named:
        assert any(path == word or path.endswith(f"/{word}") for path in known), f"{name} names {word}"


def leaves(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        yield from leaves(value, f"{path}{key}.") if isinstance(value, dict) else [(f"{path}{key}", value)]


def shown(value: Any) -> str:
    return f"`{value}`" if isinstance(value, str) else "null" if value is None else str(value)


def test_the_settings_are_those_of_the_code_with_their_defaults():
    defaults = dict(leaves(AtpoConfig().to_mapping()))
    paper = dict(leaves(ATPO_PRESETS["paper"]["algorithm"]["atpo"]))
    said = {}
    for names, default, _ in tables("settings.md", "## Settings under"):
        said.update(zip(quoted(names), default.split(", "), strict=True))
    assert said == {name: shown(value) for name, value in defaults.items()}
    differing = {quoted(name)[0]: values for name, *values in table("settings.md", "The preset `paper` differs")}
    expected = {name: [shown(value), shown(paper[name])] for name, value in defaults.items() if paper[name] != value}
    assert differing == expected and len(expected) > 3


def test_every_preset_is_explained():
    said = {word for row in table("settings.md", "## Presets") for word in quoted(row[0])}
    words = {f"+{group}={name}" for group, names in PRESETS.items() for name in names}
    assert {word if word.startswith("+") else f"+score={word}" for word in said} == words


def test_by_hand_is_what_the_preset_sets():
    text = (ROOT / "docs" / "settings.md").read_text().partition("By hand")[2]
    by_hand = OmegaConf.from_dotlist([line.strip().lstrip("+") for line in text.split("\n\n")[1].splitlines()])
    preset = OmegaConf.create(ATPO_PRESETS["tree"])
    told = dict(leaves(OmegaConf.to_container(by_hand)))
    assert len(told) == 8
    for key, value in told.items():
        expected = AtpoConfig().expansion.leaves if key.endswith("rollout.n") else OmegaConf.select(preset, key)
        assert value == expected, key


async def test_every_metric_is_explained():
    stats = tree_stats(await grow_tree(config_of(), FakeEngine(0, stop=0.3), FakeLoop(5)), seconds=1.0)
    logged = {key.removeprefix(f"{PREFIX}/") for key in (*step_metrics(WorkerStats([stats])), USELESS)}
    assert {word for row in tables("metrics.md", "## Trees") for word in quoted(row[0])} == logged


def test_every_metric_that_is_named_in_the_code_is_explained():
    """Names that are put together are in the test above."""
    texts = "".join((ROOT / "docs" / page).read_text() for page in ("metrics.md", "a2tgpo.md", "packed.md"))
    said = {
        word
        for part in re.findall(r"`([\w/]+)`", texts)
        for word in (part, f"atpo/{part}", part.removeprefix("actor/"))
    }
    named = {}
    for path in (ROOT / "verl_atpo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and re.fullmatch(METRIC, str(node.value)):
                named[node.value] = path.name
    assert len(named) > 20
    assert not {name: file for name, file in named.items() if name not in said}
