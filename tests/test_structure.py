"""The structure of the package: functions that fit a screen, no import cycles, a pure core that loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "verl_atpo").rglob("*.py"))
LONGEST_FUNCTION = 50


def module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(file: Path, names: set[str]) -> set[str]:
    """Modules of the package that a module imports when it is imported itself."""
    found = set()
    for node in ast.parse(file.read_text()).body:  # imports inside functions are made later
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= submodules & names or {node.module}
    return (found & names) - {module(file)}


def test_there_is_something_to_look_at():
    assert len(FILES) > 100


@pytest.mark.parametrize("file", FILES, ids=module)
def test_functions_fit_a_screen(file):
    text = file.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{node.name} has {lines} lines"


def test_no_import_goes_round_in_circles():
    names = {module(file) for file in FILES}
    graph = {module(file): imports(file, names) for file in FILES}
    assert sum(map(len, graph.values())) > 200
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import one another: {' -> '.join(error.args[1])}")


def imports_of_verl(file: Path) -> set[str]:
    """Names of verl that a module imports when it is imported itself."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.split(".")[0] == "verl"}


def test_the_plugin_imports_no_module_that_imports_verl():
    """Else a module that is imported first imports verl, verl the plugin, and the plugin that module half made."""
    files = {module(file): file for file in FILES}
    reached, left = set(), ["verl_atpo.plugin"]
    while left:
        name = left.pop()
        packages = {".".join(name.split(".")[:parts]) for parts in range(1, name.count(".") + 1)}
        reached.add(name)
        left += (imports(files[name], set(files)) | packages) - reached
    assert len(reached) > 50
    assert {name: found for name in reached if (found := imports_of_verl(files[name]))} == {}


METHOD = ("expansion", "credit", "channel", "scheme")
PURE = ("settings", "config", "schemes", "tree.tree", "tree.contexts", *(f"method.{name}" for name in METHOD))
HEAVY = {"torch", "ray", "verl", "vllm", "transformers", "omegaconf", "hydra", "numpy"}


def test_the_pure_core_loads_nothing_heavy():
    wanted = {f"verl_atpo.{name}" for name in PURE}
    code = f"import sys\nimport {', '.join(sorted(wanted))}\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    modules = set(loaded.stdout.split())
    assert wanted <= modules and not modules & HEAVY


CORE = ("tree", "method", "replay", "rollout", "packed")
EXTENSIONS = (
    "schemes",
    "gateway",
    "view",
    "render",
    "search_qa",
    "platforms",
    "tools.python",
    "tools.workspace",
    "tools.sandbox",
)


def all_imports(file: Path) -> set[str]:
    """Modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_the_core_knows_no_extension():
    core = [file for file in FILES if file.relative_to(ROOT / "verl_atpo").parts[0] in CORE]
    assert len(core) > 50
    for file in core:
        for name in all_imports(file):
            known = [room for room in EXTENSIONS if f"{name}.".startswith(f"verl_atpo.{room}.")]
            assert not known, f"{module(file)} imports {name}"
    registered = ROOT / "verl_atpo" / "schemes" / "a2tgpo" / "scheme.py"
    if registered.exists():  # the other way round there are arrows
        assert any(name.startswith("verl_atpo.method.") for name in all_imports(registered))


TESTS = sorted((ROOT / "tests").rglob("*.py"))
OUTSIDE = [
    file for room in ("verl_atpo", "tests", "examples", "recipes") for file in sorted((ROOT / room).rglob("*.py"))
]


def test_no_test_file_imports_another():
    assert len(TESTS) > 150
    for file in TESTS:
        others = {name for name in all_imports(file) if name.startswith("tests.")}
        assert all(f"{name}.".startswith("tests.assets.") for name in others), f"{file} imports {sorted(others)}"
    assert any(name.startswith("tests.assets.") for name in all_imports(ROOT / "tests" / "rollout" / "test_grower.py"))


def test_nothing_but_its_tests_imports_a_benchmark():
    for file in OUTSIDE:
        known = [name for name in all_imports(file) if f"{name}.".startswith("benchmarks.")]
        assert not known or ROOT / "tests" / "benchmarks" in file.parents, f"{file} imports {known}"
    assert "benchmarks.runs" in all_imports(ROOT / "tests" / "benchmarks" / "test_runs.py")


CORE_ROOMS = ("tree", "method", "schemes", "replay", "rollout", "report", "startup", "deadlines")


def test_a_public_name_of_the_core_stands_for_one_thing():
    places: dict[str, list[str]] = {}
    for file in FILES:
        if file.relative_to(ROOT / "verl_atpo").parts[0] not in CORE_ROOMS:
            continue
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
                places.setdefault(node.name, []).append(module(file))
    assert len(places) > 300
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
