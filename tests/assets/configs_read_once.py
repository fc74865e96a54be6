"""verl's config files, parsed once in a process: hundreds of tests compose them, which took half of their time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource

Load = Callable[[ConfigSource, str], ConfigResult]
PACKAGE = "verl.trainer.config"


def read_verls_configs_once() -> None:
    """Make Hydra's sources of files copy what they parsed before; files outside verl are parsed at each call."""
    Plugins.instance()  # which defines the sources anew
    for scheme in ("file", "pkg"):
        source = SourcesRegistry.instance().resolve(scheme)
        source.load_config = remembering(source.load_config)


def remembering(load: Load) -> Load:
    """Return the method of a source with a memory for verl's files, which no test changes."""
    found: dict[tuple[str, str], ConfigResult] = {}
    spec = find_spec("verl")  # finds it without loading it
    folders = [PACKAGE, *(str(Path(folder, "trainer", "config")) for folder in spec.submodule_search_locations or ())]

    def load_config(self: ConfigSource, config_path: str) -> ConfigResult:
        if self.path not in folders:
            return load(self, config_path)
        key = (self.path, config_path)
        if key not in found:
            found[key] = load(self, config_path)
        return copy.deepcopy(found[key])

    return load_config
