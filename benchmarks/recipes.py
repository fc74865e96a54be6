"""Check verl's own recipes with one preset appended; fill the table of ``docs/verl_recipes.md``.

    python -m benchmarks.recipes

The recipes are those of ``tests/assets/verl_recipes.yaml``. Each is composed by Hydra, then checked by verl's
``validate_config`` and by this package, as ``main_ppo`` does before Ray starts, with ``+atpo=tree`` and with
``+atpo=chain``. Up to three settings that the installed verl itself refuses are left out of a recipe.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import pyarrow
import pyarrow.parquet
import verl  # noqa: F401 (as main_ppo does before Hydra reads the command line)
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from benchmarks import markdown
from verl_atpo.settings import ConfigError
from verl_atpo.startup.checks import check_config

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "tests" / "assets" / "verl_recipes.yaml"
PAGE = ROOT / "docs" / "verl_recipes.md"
TOOLS = ROOT / "verl_atpo" / "search_qa" / "search.yaml"
BEGIN, END = "<!-- begin recipes -->", "<!-- end recipes -->"
SHORT = {"A.": "actor", "R.": "rollout", "F.": "ref", "M.": "model"}
COLUMNS = ("recipe", "`+atpo=tree`", "`+atpo=chain`", "settings that verl refuses")
NOT_ACCEPTED = "-"
ONE_TURN = "refused: one turn"
Row: TypeAlias = tuple[str, str, str, str]
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

    def row(self) -> Row:
        """Return its row of the table."""
        recipe, refused = self.as_verl_takes_it()
        if recipe is None:
            return f"`{self.script}`", NOT_ACCEPTED, NOT_ACCEPTED, quoted(refused)
        results = (short(recipe.outcome(preset)) for preset in ("+atpo=tree", "+atpo=chain"))
        return f"`{self.script}`", *results, quoted(refused)


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


def short(outcome: str) -> str:
    """Shorten an outcome to the setting that is refused."""
    setting = outcome.removeprefix("refused: ").partition(" cannot work")[0]
    if setting == outcome:
        return outcome
    if setting.endswith("default_agent_loop=single_turn_agent"):
        return ONE_TURN
    key, _, value = setting.partition("=")
    section, _, name = key.rpartition(".")
    return f"refused: `{section.rpartition('.')[2] + '.' if name == 'enable' else ''}{name}={value}`"


def summary(rows: Sequence[Row]) -> str:
    """Count the recipes, and the results of each preset."""
    taken = [row for row in rows if row[1] != NOT_ACCEPTED]
    mended = sum(bool(row[3]) for row in taken)
    counts = [
        {
            "preset": column,
            "passes": sum(row[at] == "passes" for row in taken),
            "refused": sum(row[at] != "passes" for row in taken),
        }
        for at, column in enumerate(COLUMNS[1:3], 1)
    ]
    return (
        f"{len(rows)} recipes. verl accepts {len(taken) - mended} unchanged and {mended} without the settings that it\n"
        f"refuses; it does not accept {len(rows) - len(taken)}. Of the {len(taken)} accepted:\n\n"
        f"{markdown.table(counts)}"
    )


def quoted(settings: Iterable[str]) -> str:
    """Format settings for the table, each by the last two parts of its key."""
    return ", ".join(f"`{'.'.join(each.lstrip('+').split('.')[-2:])}`" for each in settings)


def main() -> None:
    """Write the table."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = [recipe.row() for recipe in recipes()]
    table = markdown.table([dict(zip(COLUMNS, row, strict=True)) for row in rows])
    content = f"{summary(rows)}\n\n{table}"
    PAGE.write_text(f"{before}{BEGIN}\n\n{content}\n\n{END}{after}")


if __name__ == "__main__":
    main()
