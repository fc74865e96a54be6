"""Check verl's own recipes with one preset appended; fill the table of ``docs/recipes.md``.

    python -m benchmarks.recipes

The recipes are those of ``tests/assets/verl_recipes.yaml``. Each is composed by Hydra, then checked by verl's
``validate_config`` and by this package, as ``main_ppo`` does before Ray starts. Each is checked with ``+atpo=tree`` and
with ``+atpo=chain``; recipes of several turns have ``+atpo=tree`` first. Up to three settings that the installed verl
itself refuses are left out of a recipe. A recipe with more of them has one row.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow
import pyarrow.parquet
import verl  # noqa: F401 (as main_ppo does before Hydra reads the command line)
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate

from verl_atpo.settings import ConfigError
from verl_atpo.startup.checks import check_config
from verl_atpo.startup.order import split

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "tests" / "assets" / "verl_recipes.yaml"
PAGE = ROOT / "docs" / "recipes.md"
TOOLS = ROOT / "verl_atpo" / "search_qa" / "search.yaml"
BEGIN, END = "<!-- begin recipes -->", "<!-- end recipes -->"
SHORT = {"A.": "actor", "R.": "rollout", "F.": "ref", "M.": "model"}
COLUMNS = ("recipe", "refused by verl", "preset", "result", "recipe settings that yield")
NOT_ACCEPTED = "not accepted by verl"
ANY = "any"
LEFT_OUT = 3
"""Largest number of settings that are left out of a recipe because verl refuses them."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Run script of verl.

    Attributes:
        script: its path below verl's ``examples/``.
        options: overrides on its command line.
        file: content of its config file; None if it has none.
        engine: ``model_engine`` of the config file.
    """

    script: str
    options: tuple[str, ...]
    file: dict[str, Any] | None = dataclasses.field(hash=False)
    engine: str

    @property
    def has_turns(self) -> bool:
        """Return whether the recipe names tools."""
        return any("tool_config_path" in option for option in self.options)

    def verl_refusal(self) -> str | None:
        """Return the setting of the recipe that verl refuses; None if verl accepts the recipe."""
        try:
            verl_checks(composed(self))
        except (HydraException, AssertionError, ValueError) as refusal:
            return what(str(refusal))
        return None

    def as_verl_takes_it(self) -> tuple[Recipe | None, list[str]]:
        """Return the recipe without the settings that verl refuses (None if too many are), and these settings."""
        recipe, refused = self, []
        while setting := recipe.verl_refusal():
            refused.append(setting)
            options = tuple(each for each in recipe.options if not key_of(each).endswith(setting))
            if options == recipe.options or len(refused) > LEFT_OUT:
                return None, refused[:1]
            recipe = dataclasses.replace(recipe, options=options)
        return recipe, refused

    def outcome(self, *presets: str) -> str:
        """Return ``passes``, or the error text with which it is refused before Ray starts."""
        with tempfile.TemporaryDirectory() as folder:
            config = composed(self, *presets).copy()
            config.data.train_files = str(data_file(Path(folder), "tool_agent" if self.has_turns else None))
            verl_checks(config)
            try:
                check_config(config)
            except ConfigError as refusal:
                return f"refused: {refusal}"
        return "passes"

    def yields(self, preset: str) -> list[str]:
        """List the recipe's settings that a preset changes."""
        config = composed(self, preset)
        replaced = split([*self.options, preset])[1]
        return [each.line for each in replaced if OmegaConf.select(config, each.key) != each.value]

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Yield its rows of the table, one for each preset."""
        recipe, refused = self.as_verl_takes_it()
        start = f"`{self.script}`", quoted(refused)
        if recipe is None:
            yield *start, ANY, NOT_ACCEPTED, ""
            return
        for preset in ("+atpo=tree", "+atpo=chain") if self.has_turns else ("+atpo=chain", "+atpo=tree"):
            outcome, _, why = recipe.outcome(preset).partition(": ")
            if why:
                outcome = f"{outcome} for {quoted([why.partition(' cannot work')[0]])}"
            yield *start, f"`{preset}`", outcome, quoted(recipe.yields(preset))


@functools.cache
def composed(recipe: Recipe, *presets: str) -> DictConfig:
    """Compose a recipe's config with presets after its own options; callers must not change it."""
    defaults = ["ppo_trainer", {"override model_engine": recipe.engine}, "_self_"]
    content = {"hydra": {"searchpath": ["pkg://verl.trainer.config"]}, "defaults": defaults, **(recipe.file or {})}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        with initialize_config_dir(folder, version_base=None):
            return compose("recipe", overrides=[*recipe.options, *presets])


def data_file(folder: Path, agent: str | None) -> Path:
    """Write data as verl's scripts prepare it: rows of tool agents name their loop."""
    file = folder / f"{agent}.parquet"
    row: dict[str, Any] = {
        "prompt": [{"role": "user", "content": "1 + 1?"}],
        **({"agent_name": agent} if agent else {}),
    }
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), file)
    return file


def recipes() -> list[Recipe]:
    """Read all recipes, with full keys in place of abbreviations."""
    return [
        Recipe(
            script=entry["script"],
            options=tuple(written_out(option) for option in entry["options"].split()),
            file=entry.get("file"),
            engine=entry.get("engine", "dp"),
        )
        for entry in yaml.safe_load(RECIPES.read_text())
    ]


def written_out(option: str) -> str:
    """Expand an option to its full key, and to an existing tool file."""
    plus, key = ("+", option[1:]) if option.startswith("+") else ("", option)
    if key[:2] in SHORT:
        key = f"actor_rollout_ref.{SHORT[key[:2]]}.{key[2:]}"
    return f"{plus}{key}".replace("=TOOLS", f"={TOOLS}")


def verl_checks(config: DictConfig) -> None:
    """Run the checks of verl's ``main`` before Ray starts, without LoRA's rank, which needs vLLM."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    reference, critic = need_reference_policy(config), need_critic(config)
    without_lora = OmegaConf.merge(config, {"actor_rollout_ref": {"model": {"lora_rank": 0, "lora": {"rank": 0}}}})
    validate_config(cast(DictConfig, without_lora), use_reference_policy=reference, use_critic=critic)


def what(refusal: str) -> str:
    """Extract the setting that verl or Hydra refuses; their messages put it between single quotes."""
    found = re.search(r"(?:override|already at|find|argument) '([^']+)'", refusal)
    return found.group(1) if found else refusal.partition("\n")[0]


def key_of(option: str) -> str:
    """Return the key that an option of the command line sets."""
    return option.lstrip("+").partition("=")[0]


def summary(table: Sequence[tuple[str, ...]]) -> str:
    """Count the recipes, and the results of each preset."""
    refused, taken = ({script for script, _, preset, *_ in table if (preset == ANY) is none} for none in (True, False))
    mended = {script for script, of_it, *_ in table if of_it} - refused
    results = collections.Counter((preset, result.split()[0]) for _, _, preset, result, _ in table if preset != ANY)
    counts = "\n".join(f"- {preset} {result}: {count}" for (preset, result), count in sorted(results.items()))
    return (
        f"{len(taken | refused)} recipes. verl accepts {len(taken - mended)} unchanged and {len(mended)} without the "
        f"settings that it refuses; it does not accept {len(refused)}.\n\nOf the {len(taken)} accepted:\n\n{counts}"
    )


def quoted(settings: Iterable[str]) -> str:
    """Format settings for the table."""
    return ", ".join(f"`{each.lstrip('+').replace('actor_rollout_ref.', '')}`" for each in settings)


def main() -> None:
    """Write the table."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = [row for recipe in recipes() for row in recipe.rows()]
    content = f"{summary(table)}\n\n{tabulate(table, COLUMNS, tablefmt='github')}"
    PAGE.write_text(f"{before}{BEGIN}\n\n{content}\n\n{END}{after}")


if __name__ == "__main__":
    main()
