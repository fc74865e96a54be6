"""Prose of README, docs and code: short lines and paragraphs, the field's terms, commands before explanations."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
FOLDERS = ("docs", "examples", "recipes")
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(page for each in FOLDERS for page in (ROOT / each).rglob("*.md")),
]
QUOTED = {"smollm2_trees.md"}
"""Pages that quote a model."""
OTHERS_TABLES = {"reproducing.md"}
"""Pages with a table of the authors."""
LONGEST_LINE, LONGEST_PARAGRAPH, MOST_COLUMNS = 160, 4, 7
RETIRED = (
    "limbs?", "sight", "told", "picks?", "picked", "wishes", "of now", "of then", "comes? to", "came to", "worth",
    "behind", "stands? apart", "points ahead", "but for", "less (?!than\\b|\\w+ than\\b|processor|time|often)",
    "for want of", "past all", "one's own", "as ever", "thrown away", "let go", "hands? on", "handed on",
    "(?:failed|further|new|all) tries", "taken up again", "gives? way",
    "goes on", "went on", "anew", "afresh", "stands at", "stood", "without a word", "for people", "trouble that passes",
)  # fmt: skip
"""Expressions that the glossary replaces by one of the field's terms."""
RETIRED_WORDS = re.compile(rf"\b(?:{'|'.join(RETIRED)})\b", re.IGNORECASE)
CODE = re.compile(
    r"```.*?```|`[^`\n]*`|^ {4}[^\n]*$|^:::[^\n]*$|<!--.*?-->|\]\([^)]*\)|\$[^$\n]*\$", re.DOTALL | re.MULTILINE
)


CODE_FOLDERS = ("verl_atpo", "benchmarks", "examples")
SOURCES = sorted(source for folder in CODE_FOLDERS for source in (ROOT / folder).rglob("*.py"))
QUOTED_CODE = re.compile(r"``.*?``|`[^`\n]*`|^\s+[a-z_]+(?:, [a-z_]+)*:|['\"][\w/.-]+['\"]", re.DOTALL | re.MULTILINE)
"""Code in docstrings, and names of arguments and attributes in their lists."""


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """The page without code, comments and link targets, lines kept."""
    return CODE.sub(lambda match: re.sub(r"[^\n]", "_", match[0]), page.read_text())


def paragraphs(text: str) -> Iterator[list[str]]:
    """Blocks of running text: neither headings nor tables, code, lists' next items."""
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        if re.match(r"\s*$|[|#!]|\s*(?:[-*]|\d+\.)\s|_*$", line) and block:
            yield block
            block = []
        if re.match(r"\s*(?:[-*]|\d+\.)\s|[^|#!\s_]|\s{1,3}\S", line):
            block.append(line)


def test_there_are_pages():
    assert len(PAGES) > 35


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_and_paragraphs_are_short(page: Path):
    if page.name in QUOTED:
        pytest.skip("quotes a model")
    text = prose(page)
    outside = [line for line in text.splitlines() if not line.startswith("![")]
    assert [line for line in outside if len(line) > LONGEST_LINE and "_" * 40 not in line] == []
    assert ["\n".join(block) for block in paragraphs(text) if len(block) > LONGEST_PARAGRAPH] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tables_have_at_most_seven_columns(page: Path):
    if page.name in OTHERS_TABLES:
        pytest.skip("holds the authors' table")
    rows = [line for line in prose(page).splitlines() if line.startswith("|")]
    assert [row for row in rows if len(re.findall(r"(?<!\\)\|", row)) - 1 > MOST_COLUMNS] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_words_are_the_fields(page: Path):
    if page.name in QUOTED:
        pytest.skip("quotes a model")
    found = [
        (match[0], line.strip()[:120]) for line in prose(page).splitlines() for match in RETIRED_WORDS.finditer(line)
    ]
    assert found == []


def texts_of(source: Path) -> Iterator[tuple[int, str]]:
    """Docstrings, log lines, error texts, descriptions and comments of a module, with their lines."""
    text = source.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def test_the_words_of_the_code_are_the_fields():
    assert len(SOURCES) > 200
    found = [
        f"{name(source)}:{line}: {match[0]}"
        for source in SOURCES
        for line, text in texts_of(source)
        for match in RETIRED_WORDS.finditer(QUOTED_CODE.sub("_", text))
    ]
    assert found == []


FIRST_WORDS = re.compile(r"(?:What|Those|Of|By|That|Whether|How|So|Which|Where|When|Who|Told|Said)\b")
"""Words with which no docstring begins: a verb or a noun says what the thing is."""


def test_docstrings_begin_with_a_verb_or_a_noun():
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    found = [
        f"{name(source)}: {text.splitlines()[0]}"
        for source in [*SOURCES, *sorted((ROOT / "recipes").rglob("*.py"))]
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, documented) and (text := ast.get_docstring(node)) and FIRST_WORDS.match(text)
    ]
    assert found == []
    assert FIRST_WORDS.match("What a tree tells") and not FIRST_WORDS.match("Whatever")


ENTRY = re.compile(
    r"^\s+(?P<names>\*{0,2}[a-z_]+(?:, [a-z_]+)*): (?:of|those|that of|what|whose|how|which|by which|from which|for) ",
    re.MULTILINE,
)
"""An argument or attribute whose description is no phrase of its own: ``text: of the tokens``."""


def test_arguments_and_attributes_are_described_by_a_phrase_of_their_own():
    documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    found = [
        f"{name(source)}: {match['names']}"
        for source in sorted((ROOT / "verl_atpo").rglob("*.py"))
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, documented) and (text := ast.get_docstring(node))
        for match in ENTRY.finditer(text)
    ]
    assert found == []
    assert ENTRY.search("    text: of the tokens.") and not ENTRY.search("    text: text of the tokens.")


def test_texts_of_code_are_found(tmp_path: Path):
    source = tmp_path / "module.py"
    source.write_text('"""What was told."""\nx = f"{1} is behind"  # picked here\nKEY = "picked"\n')
    found = [RETIRED_WORDS.findall(text) for _, text in texts_of(source)]
    assert sorted(word for words in found for word in words) == ["behind", "picked", "told"]


def test_retired_words_are_found():
    for text in ("for want of room", "a loop of one's own", "failed tries", "is handed on", "was let go"):
        assert RETIRED_WORDS.search(text), text
    for text in ("a limb", "was picked", "the trees of now", "comes to 80 %", "two points behind", "less alpha"):
        assert RETIRED_WORDS.search(text), text
    for text in ("less than 5 %", "a trajectory", "selected", "takes less time"):
        assert not RETIRED_WORDS.search(text), text


def test_the_readme_shows_commands_before_explanations():
    before, _, _ = README.read_text().partition("\n    ")
    assert 5 < len(before.split()) < 60
    first_screen = README.read_text().split("\n## ")[0].splitlines()
    assert len(first_screen) < 60


def test_no_cell_of_the_readme_holds_two_values():
    assert [line for line in README.read_text().splitlines() if line.startswith("|") and ";" in line] == []
