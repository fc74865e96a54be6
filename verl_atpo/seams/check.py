"""Search for the seams of :mod:`verl_atpo.seams.places` in the source of verl and others, without importing them.

A seam holds if its name is defined, its parameters stand in their order and its expressions occur in the body. That is
weaker than a test and stronger than a version number: a verl whose seams have moved is refused, a merely newer one is
not.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from verl_atpo.seams.places import SEAMS, Feature, Seam

WHOLE_CONFIG = "trainer/config/_generated_ppo_trainer.yaml"
"""verl's own composed config of ``main_ppo``."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class SeamMissing(RuntimeError):
    """The installed verl lacks a seam of a feature. The message names what is missing, and the remedy."""


def missing(features: Iterable[Feature], verl: Path | None = None) -> Iterator[str]:
    """Yield one line for each seam that does not hold.

    Args:
        features: features whose seams are checked in addition to those of ``METHOD``.
        verl: folder of the package ``verl``; by default the one that ``import verl`` finds.
    """
    for feature in dict.fromkeys((Feature.METHOD, *features)):
        yield from problems(feature, verl)


def problems(feature: Feature, verl: Path | None = None) -> Iterator[str]:
    """Yield one line for each seam of one feature that does not hold."""
    for seam in SEAMS[feature]:
        problem = problem_of(seam, verl)
        if problem is not None:
            yield f"{seam.place} ({seam.why}): {problem}"


def require(*features: Feature) -> None:
    """Refuse a verl in which a feature cannot work.

    Raises:
        SeamMissing: names verl's version, what is missing and the remedy.
    """
    lines = list(missing(features))
    if lines:
        wanted = " ".join(feature.value for feature in features) or Feature.METHOD.value
        more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
        raise SeamMissing(
            f"verl {importlib.metadata.version('verl')} is installed, in which {wanted} cannot work: {lines[0]}{more}. "
            "Remedy: python -m verl_atpo.doctor lists what is missing; install a verl that is known to work "
            "(docs/versions.md)."
        )


@functools.cache
def problem_of(seam: Seam, verl: Path | None = None) -> str | None:
    """Describe why a seam does not hold, in the installed packages or in the verl at a folder; None if it holds."""
    module, name = seam.place.split(":")
    package = "verl" if module == "config" else module.partition(".")[0]
    root = verl if verl is not None and package == "verl" else _folder(package)
    if root is None:
        return f"{package} is not installed"
    if module == "config":
        return None if name in _config_keys(root) else "no such key"
    tree = _parsed(root, module)
    node = tree and _find(tree, name)
    if tree is None or node is None:
        bound = tree is not None and not seam.parameters and not seam.mentions and _binds(tree, name)
        return None if bound else "it is not there"
    have = _parameters(node)
    if have is not None and tuple(each for each in have if each in seam.parameters) != seam.parameters:
        return f"expected the parameters {', '.join(seam.parameters)}, got {', '.join(have)}"
    absent = set(seam.mentions) - _words(node)
    return f"{', '.join(sorted(absent))} not in it" if absent else None


@functools.cache
def _folder(package: str) -> Path | None:
    """Find the folder of a package's source without importing it."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


@functools.cache
def _parsed(root: Path, module: str) -> ast.Module | None:
    path = root.joinpath(*module.split(".")[1:])
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return ast.parse(file.read_text())
    return None


@functools.cache
def _config_keys(root: Path) -> frozenset[str]:
    file = root / WHOLE_CONFIG
    return frozenset(_dotted(yaml.safe_load(file.read_text()))) if file.is_file() else frozenset()


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _dotted(value, f"{prefix}{key}.")


def _find(tree: ast.Module, name: str) -> ast.Module | Definition | None:
    """Return the definition at a dotted name; the module itself for the empty name."""
    node: ast.Module | Definition = tree
    for part in name.split(".") if name else ():
        found = [each for each in node.body if isinstance(each, Definition) and each.name == part]
        if not found:
            return None
        node = found[-1]
    return node


def _binds(tree: ast.Module, name: str) -> bool:
    """Return whether a module defines the name by an assignment or an import."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
            return True
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return True
    return False


def _parameters(node: ast.Module | Definition) -> tuple[str, ...] | None:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    arguments = node.args
    return tuple(each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))


def _words(node: ast.AST) -> set[str]:
    """Collect all names, attributes, parameters, keywords and strings in a piece of source."""
    words: set[str] = set()
    for each in ast.walk(node):
        for field in ("id", "attr", "arg", "name"):
            if isinstance(word := getattr(each, field, None), str):
                words.add(word)
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            words.add(each.value)
    return words
