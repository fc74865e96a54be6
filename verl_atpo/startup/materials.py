"""Loaders of a run's inputs in the driver: the model's folder and tokenizer, rows of the data, tools.

Each function is called by :meth:`Run.once`, and raises ``ConfigError`` with setting, value and remedy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import ListConfig

from verl_atpo.failure import brief
from verl_atpo.settings import ConfigError, did_you_mean, refuse
from verl_atpo.startup.rules.rule import Run
from verl_atpo.startup.rules.tool_files import FUNCTION_TOOLS, TOOL_CONFIG, find_file

MODEL = "actor_rollout_ref.model.path"
TOKENIZER = "actor_rollout_ref.model.tokenizer_path"
TEMPLATE = "actor_rollout_ref.model.custom_chat_template"
REWARD_FILE = "reward.custom_reward_function.path"
REWARD_NAME = "reward.custom_reward_function.name"
TRAIN, VALIDATION = "data.train_files", "data.val_files"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
HUB_TIMEOUT_S = 5.0
SAMPLE = 64
"""Number of rows of a data file that are checked, half of them the first and half spread over the rest."""
LARGE_BYTES = 256 << 20
"""Size in bytes above which only the beginning of a data file is read."""


def is_here(path: str) -> bool:
    """Return whether a path is on this machine's file system, not on one such as ``hdfs://``."""
    return "://" not in path


def model_folder(run: Run) -> Path | None:
    """Find the model's folder on this machine; None for a model that can be downloaded.

    Raises:
        ConfigError: no such folder, or a model that the hub does not provide.
    """
    path = str(run.get(MODEL))
    if not is_here(path):
        return None
    if Path(path).is_dir():
        return Path(path)
    if path.startswith(("/", ".", "~")) or path.count("/") != 1:
        home = ' verl does not expand "~".' if path.startswith("~") else ""
        raise refuse(
            MODEL,
            path,
            f"there is no such folder, seen from {Path.cwd()}.{home} Set the folder of a model, or a hub id",
        )
    return _from_hub(path)


def _from_hub(name: str) -> Path | None:
    """Return the folder of the hub's cache that holds a model's config; None if only the hub has it."""
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(name, "config.json")
    if isinstance(found, str):
        return Path(found).parent
    if offline := [key for key in OFFLINE if os.environ.get(key, "0").lower() in ("1", "true", "yes", "on")]:
        raise refuse(
            MODEL,
            name,
            f"{offline[0]} is set, and the hub's cache has no such model. Download it first (hf download {name}), "
            "unset "
            f"{offline[0]}, or set a folder",
        )
    try:
        huggingface_hub.get_hf_file_metadata(
            huggingface_hub.hf_hub_url(name, "config.json"), timeout=HUB_TIMEOUT_S, retry_on_errors=False
        )
    except Exception as error:
        raise refuse(
            MODEL,
            name,
            f"there is no such folder, and the hub does not give it: {brief(error)}. Set the folder of a model, a hub "
            "id that exists, or HF_TOKEN for one that is not public",
            error,
        ) from error
    return None


def model_config(run: Run) -> Mapping[str, Any]:
    """Read the model's ``config.json``; empty for a model that is not on this machine.

    Raises:
        ConfigError: there is none, or it is no JSON object.
    """
    folder = run.once(model_folder)
    if folder is None:
        return {}
    try:
        content = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise refuse(
            MODEL,
            folder,
            "the folder has no config.json. Expected a model of Hugging Face's form: config.json, tokenizer, weights",
        ) from None
    except (OSError, ValueError) as error:
        raise refuse(MODEL, folder, f"its config.json cannot be read: {brief(error)}. Save the model again") from error
    if not isinstance(content, dict):
        raise refuse(MODEL, folder, "its config.json is no JSON object. Save the model again")
    return content


def tokenizer(run: Run) -> Any:
    """Load the tokenizer as verl's workers do; None for one that is not on this machine.

    Raises:
        ConfigError: it cannot be loaded, or has no chat template.
    """
    run.once(model_config)
    setting = TOKENIZER if run.get(TOKENIZER) else MODEL
    path = str(run.get(setting))
    if not is_here(path):
        return None
    from verl.utils import hf_tokenizer

    try:
        with quiet():
            made = hf_tokenizer(path, trust_remote_code=bool(run.get("actor_rollout_ref.model.trust_remote_code")))
    except Exception as error:
        raise refuse(
            setting,
            path,
            f"its tokenizer cannot be loaded: {brief(error)}. Save the tokenizer in the model's folder",
            error,
        ) from error
    if template := run.get(TEMPLATE):
        made.chat_template = template
    if made.chat_template is None:
        raise refuse(
            setting,
            path,
            "its tokenizer has no chat template, so no prompt can be rendered. Use an instruction-tuned model, or set "
            f"{TEMPLATE} to a template",
        )
    return made


def is_multimodal(run: Run) -> bool:
    """Return whether the model has a processor of images, video or audio."""
    folder = run.once(model_folder)
    names = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
    return folder is None or any((folder / name).is_file() for name in names)


@dataclasses.dataclass(frozen=True)
class DataFile:
    """A data file and some of its rows.

    Attributes:
        file: path of the file.
        total: number of rows of the file; None if only its beginning was read.
        columns: names of the file's columns.
        sample: some rows with their numbers.
    """

    file: Path
    total: int | None
    columns: tuple[str, ...]
    sample: tuple[tuple[int, Mapping[str, Any]], ...]

    def names(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield each sampled row with a name for messages."""
        for number, row in self.sample:
            yield f"row {number} of {self.file}", row


def train_rows(run: Run) -> tuple[DataFile, ...]:
    """Read the training data that is on this machine.

    Raises:
        ConfigError: a file that does not exist, or cannot be read.
    """
    return _files(run, TRAIN)


def validation_rows(run: Run) -> tuple[DataFile, ...]:
    """Read the validation data that is on this machine; raises as :func:`train_rows`."""
    return _files(run, VALIDATION)


def _files(run: Run, setting: str) -> tuple[DataFile, ...]:
    value = run.get(setting)
    names: Iterable[Any] = value if isinstance(value, list | ListConfig) else [value]
    found = []
    for name in names:
        if name is None or not str(name).strip():
            raise refuse(setting, value, "no data is named. Set the path of a parquet file")
        if is_here(str(name)):
            found.append(_read(setting, str(name)))
    return tuple(found)


def _read(setting: str, name: str) -> DataFile:
    path = Path(name).expanduser()
    if path.is_dir():
        raise refuse(setting, name, "it is a folder. Name the files in it")
    if not path.is_file() and any(each in name for each in "*?["):
        raise refuse(setting, name, "verl reads no patterns. Name each file, as in [one.parquet,two.parquet]")
    if not path.is_file():
        near = did_you_mean(path.name, [each.name for each in path.parent.glob("*")]) if path.parent.is_dir() else ""
        raise refuse(setting, name, f"no such file, seen from {Path.cwd()}. Correct the path.{near}")
    readers: dict[str, Callable[[Path], DataFile]] = {".parquet": _parquet, ".json": _json_lines, ".jsonl": _json_lines}
    reader = readers.get(path.suffix)
    if reader is None:
        raise refuse(setting, name, "verl reads .parquet, .json and .jsonl only. Convert the file")
    try:
        rows = reader(path)
    except Exception as error:
        raise refuse(setting, name, f"it cannot be read: {brief(error)}. Write it again", error) from error
    if not rows.sample:
        raise refuse(setting, name, "it has no rows. Write data into it, or set another file")
    return rows


def _parquet(path: Path) -> DataFile:
    import pyarrow
    import pyarrow.parquet as parquet

    file = parquet.ParquetFile(path)
    total, columns = file.metadata.num_rows, tuple(file.schema_arrow.names)
    if path.stat().st_size > LARGE_BYTES:
        first = next(file.iter_batches(batch_size=SAMPLE), None)
        sample = [] if first is None else list(enumerate(first.to_pylist()))
    else:
        numbers = _spread(total)
        table = file.read().take(pyarrow.array(numbers, type=pyarrow.int64()))
        sample = list(zip(numbers, table.to_pylist(), strict=True))
    return DataFile(path, total, columns, tuple(sample))


def _json_lines(path: Path) -> DataFile:
    with path.open(encoding="utf-8") as file:
        first = file.read(1)
        file.seek(0)
        if first == "[":
            loaded = json.load(file)
            numbers = _spread(len(loaded))
            sample = [(number, loaded[number]) for number in numbers]
            return DataFile(path, len(loaded), tuple(sample[0][1]) if sample else (), tuple(sample))
        sample = list(enumerate(map(json.loads, itertools.islice(file, SAMPLE))))
        total = len(sample) + sum(1 for _ in file)
    return DataFile(path, total, tuple(sample[0][1]) if sample else (), tuple(sample))


def _spread(total: int) -> list[int]:
    """Return up to ``SAMPLE`` row numbers: half of them the first rows, then some of the rest with the last row."""
    half = SAMPLE // 2
    if total <= SAMPLE:
        return list(range(total))
    rest = total - half
    return [*range(half), *(half + (number + 1) * rest // half - 1 for number in range(half))]


def tools(run: Run) -> list[Any]:
    """Make the tools as a rollout worker does.

    Raises:
        ConfigError: one cannot be made or called.
    """
    from verl_atpo.tools.making import make_tools

    paths = [str(find_file(key, path)) if (path := run.get(key)) else None for key in (TOOL_CONFIG, FUNCTION_TOOLS)]
    try:
        with quiet():
            return make_tools(*paths)
    except ConfigError as error:
        named = " and ".join(f"{key}={run.get(key)}" for key in (TOOL_CONFIG, FUNCTION_TOOLS) if run.get(key))
        raise ConfigError(f"{named} cannot work: {error}") from error


def schemas(run: Run) -> list[dict[str, Any]]:
    """Return the schemas of the tools as the chat template gets them."""
    return [each.tool_schema.model_dump(exclude_unset=True, exclude_none=True) for each in run.once(tools)]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress output and warnings of libraries on the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
