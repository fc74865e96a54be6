"""What becomes of verl's own recipes with one word behind them; fills the table of ``docs/recipes.md``.

    python -m benchmarks.recipes

The recipes are those of ``tests/assets/verl_recipes.yaml``. Each is composed by Hydra, checked by verl's
``validate_config`` and by this package, as ``main_ppo`` does it before Ray starts: with ``+atpo=tree`` where it has
several turns, else with ``+atpo=chain``; and all of them with the other one too. What the installed verl itself refuses
of a recipe, without a word of ours, is left out, up to three settings; a recipe of which more is left has one row.
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
COLUMNS = ("recipe", "verl refuses of it", "word", "what happens", "of the recipe's, what gives way")
ANY = "any"
LEFT_OUT = 3
"""Most settings of a recipe that are left out because verl refuses them."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One run script.

    Attributes:
        script: its place below verl's ``examples/``.
        options: of its command line.
        file: what its config file sets; None where it has none.
        engine: ``model_engine`` of the config file.
    """

    script: str
    options: tuple[str, ...]
    file: dict[str, Any] | None = dataclasses.field(hash=False)
    engine: str

    @property
    def has_turns(self) -> bool:
        """Whether it names tools."""
        return any("tool_config_path" in option for option in self.options)

    def verl_refusal(self) -> str | None:
        """The setting that verl refuses of it as it is; None where verl takes it."""
        try:
            verl_checks(composed(self))
        except (HydraException, AssertionError, ValueError) as refusal:
            return what(str(refusal))
        return None

    def as_verl_takes_it(self) -> tuple[Recipe | None, list[str]]:
        """It without the settings that verl refuses, or None where that is no way; and what was refused."""
        recipe, refused = self, []
        while setting := recipe.verl_refusal():
            refused.append(setting)
            options = tuple(each for each in recipe.options if not key_of(each).endswith(setting))
            if options == recipe.options or len(refused) > LEFT_OUT:
                return None, refused[:1]
            recipe = dataclasses.replace(recipe, options=options)
        return recipe, refused

    def outcome(self, *words: str) -> str:
        """``passes``, or the words with which it is refused before Ray starts."""
        with tempfile.TemporaryDirectory() as folder:
            config = composed(self, *words).copy()
            config.data.train_files = str(data_file(Path(folder), "tool_agent" if self.has_turns else None))
            verl_checks(config)
            try:
                check_config(config)
            except ConfigError as refusal:
                return f"refused: {refusal}"
        return "passes"

    def gives_way(self, word: str) -> list[str]:
        """Its settings that a word changes."""
        config = composed(self, word)
        replaced = split([*self.options, word])[1]
        return [each.line for each in replaced if OmegaConf.select(config, each.key) != each.value]

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Its rows of the table, one for each word."""
        recipe, refused = self.as_verl_takes_it()
        start = f"`{self.script}`", quoted(refused)
        if recipe is None:
            yield *start, ANY, "verl does not take it", ""
            return
        for word in ("+atpo=tree", "+atpo=chain") if self.has_turns else ("+atpo=chain", "+atpo=tree"):
            outcome, _, why = recipe.outcome(word).partition(": ")
            if why:
                outcome = f"{outcome} for {quoted([why.partition(' cannot work')[0]])}"
            yield *start, f"`{word}`", outcome, quoted(recipe.gives_way(word))


@functools.cache
def composed(recipe: Recipe, *words: str) -> DictConfig:
    """A recipe's config with words behind its own options; not to be changed."""
    defaults = ["ppo_trainer", {"override model_engine": recipe.engine}, "_self_"]
    content = {"hydra": {"searchpath": ["pkg://verl.trainer.config"]}, "defaults": defaults, **(recipe.file or {})}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        with initialize_config_dir(folder, version_base=None):
            return compose("recipe", overrides=[*recipe.options, *words])


def data_file(folder: Path, agent: str | None) -> Path:
    """Data as verl's scripts prepare it: rows of tool agents name their loop."""
    file = folder / f"{agent}.parquet"
    row: dict[str, Any] = {
        "prompt": [{"role": "user", "content": "1 + 1?"}],
        **({"agent_name": agent} if agent else {}),
    }
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), file)
    return file


def recipes() -> list[Recipe]:
    """All recipes, abbreviations written out."""
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
    """An option with its whole key, and a file of tools that is there."""
    plus, key = ("+", option[1:]) if option.startswith("+") else ("", option)
    if key[:2] in SHORT:
        key = f"actor_rollout_ref.{SHORT[key[:2]]}.{key[2:]}"
    return f"{plus}{key}".replace("=TOOLS", f"={TOOLS}")


def verl_checks(config: DictConfig) -> None:
    """verl's own checks, as its ``main`` makes them before Ray starts, but for LoRA's rank, which vLLM is asked."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    reference, critic = need_reference_policy(config), need_critic(config)
    without_lora = OmegaConf.merge(config, {"actor_rollout_ref": {"model": {"lora_rank": 0, "lora": {"rank": 0}}}})
    validate_config(cast(DictConfig, without_lora), use_reference_policy=reference, use_critic=critic)


def what(refusal: str) -> str:
    """The setting that verl, or Hydra for it, refuses; in their words it stands between single quotes."""
    found = re.search(r"(?:override|already at|find|argument) '([^']+)'", refusal)
    return found.group(1) if found else refusal.partition("\n")[0]


def key_of(option: str) -> str:
    """The key that an option of the command line sets."""
    return option.lstrip("+").partition("=")[0]


def summary(table: Sequence[tuple[str, ...]]) -> str:
    """How many recipes there are, and what happens how often."""
    refused, taken = ({script for script, _, word, *_ in table if (word == ANY) is none} for none in (True, False))
    mended = {script for script, of_it, *_ in table if of_it} - refused
    happens = collections.Counter((word, happens.partition(" ")[0]) for _, _, word, happens, _ in table if word != ANY)
    counts = ", ".join(f"{word} {did} {count}" for (word, did), count in sorted(happens.items()))
    return (
        f"{len(taken | refused)} recipes: verl takes {len(taken - mended)} as they are, {len(mended)} without what it "
        f"refuses of them, {len(refused)} not at all. With the {len(taken)} that it takes: {counts}."
    )


def quoted(settings: Iterable[str]) -> str:
    """Settings as the table has them."""
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
