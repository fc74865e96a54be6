"""Rules about the data: its files, columns and some rows, and batch sizes that it can fill."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from verl_atpo.settings import ConfigError, did_you_mean, refuse
from verl_atpo.startup.data_checks import LIMIT, SCORED_BY_TRUTH, Reader
from verl_atpo.startup.materials import (
    TRAIN,
    VALIDATION,
    DataFile,
    is_multimodal,
    schemas,
    tokenizer,
    tools,
    train_rows,
    validation_rows,
)
from verl_atpo.startup.rules.loops import SINGLE_TURN, TOOL_AGENT, own_loops
from verl_atpo.startup.rules.rule import Rule, Run, Stage, in_trees
from verl_atpo.startup.verl_config import ACTOR, EXTERNAL, LOOPS, REWARD_MANAGER, unknown

PROMPT_KEY = "data.prompt_key"
BATCH, MINI_BATCH = "data.train_batch_size", f"{ACTOR}.ppo_mini_batch_size"
CUSTOM = "data.custom_cls.path"
NEEDED = {
    "data_source": "by which rewards and validation tell tasks apart",
    "reward_model": "whose entry ground_truth the reward function gets",
}
"""Columns that verl's reward managers read."""
MEDIA_COLUMNS = {"image": "image_key", "video": "video_key", "audio": "audio_key"}
"""Placeholders in prompts -> settings of the columns with what stands there."""
Read: TypeAlias = Callable[[Run], tuple[DataFile, ...]]
"""Reads the files of a setting."""


def row_fields(run: Run, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a data file with the fields that verl's data set derives from it."""
    info = row.get("extra_info") or {}
    kwargs = info.get("tools_kwargs") if isinstance(info, Mapping) else None
    return {**row, "raw_prompt": row.get(run.get(PROMPT_KEY)), "tools_kwargs": kwargs}


def _each_row(run: Run, read: Read) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the sampled rows of all files of a setting, with a name for messages."""
    for rows in run.once(read):
        yield from rows.names()


def _columns(run: Run, setting: str, read: Read) -> None:
    """Refuse files without a column that verl reads."""
    for rows in run.once(read):
        key = run.get(PROMPT_KEY)
        if key not in rows.columns:
            hint = did_you_mean(key, rows.columns)
            why = f"{rows.file} has no such column, only {', '.join(rows.columns)}. Name the column of the prompts"
            raise refuse(PROMPT_KEY, key, f"{why}.{hint}")
        for name in NEEDED if run.get(REWARD_MANAGER) in SCORED_BY_TRUTH else ():
            if name not in rows.columns:
                hint = did_you_mean(name, rows.columns)
                why = f"it has no column {name}, {NEEDED[name]}; it has {', '.join(rows.columns)}"
                raise refuse(setting, rows.file, f"{why}. Add the column to the data.{hint}")


def _reader(run: Run) -> Reader | None:
    """Make the reader of the rows; None for a tokenizer that is not on this machine."""
    from verl_atpo.tools.stateful import names_in_rows

    made = run.once(tokenizer)
    if made is None:
        return None
    names = [name for tool in run.once(tools) for name in names_in_rows(tool)]
    reader = Reader.of(run.config, made, names, run.once(schemas), multimodal=run.once(is_multimodal))
    return dataclasses.replace(reader, limit=None) if run.get("data.filter_overlong_prompts") else reader


def _rows(run: Run, setting: str, read: Read) -> None:
    """Refuse rows that cannot work."""
    if (reader := run.once(_reader)) is not None:
        for name, row in _each_row(run, read):
            reader.check(row_fields(run, row), name)


def _nulls(run: Run, setting: str, read: Read) -> str | None:
    """Refuse values that are missing in some rows, where a parquet file has nulls."""
    if run.get(REWARD_MANAGER) not in SCORED_BY_TRUTH:
        return None
    for rows in run.once(read):
        truths: dict[str, dict[bool, str]] = {}
        for name, row in rows.names():
            for column in NEEDED:
                if row.get(column) is None:
                    return f"{column} of {name} is null, {NEEDED[column]}. Fill it, or remove the row"
            scored = row["reward_model"]
            truth = scored.get("ground_truth") if isinstance(scored, Mapping) else None
            truths.setdefault(str(row["data_source"]), {}).setdefault(truth is None, name)
        for source, found in truths.items():
            if len(found) > 1:
                return (
                    f"reward_model.ground_truth of {found[True]} is null, but {found[False]} of the same "
                    f"data_source={source!r} has one. Fill it, or remove the row"
                )
    return None


def _media(run: Run, setting: str, read: Read) -> str | None:
    """Refuse columns of pictures, videos or sounds that the model cannot read or that the prompt has no place for."""
    if run.get(CUSTOM) is not None:
        return None
    for name, row in _each_row(run, read):
        messages = row.get(run.get(PROMPT_KEY))
        contents = [each.get("content") for each in messages if isinstance(each, Mapping)] if messages else []
        for mark, column in MEDIA_COLUMNS.items():
            key = run.get(f"data.{column}") or f"{mark}s"
            items = row.get(key)
            number = 0 if items is None else len(items)
            if number and not run.once(is_multimodal):
                return (
                    f"{name} has {number} {key}, but the model reads text only. Use another model, or remove the column"
                )
            places = sum(text.count(f"<{mark}>") for text in contents if isinstance(text, str))
            if number and places != number and all(isinstance(text, str) for text in contents):
                return f"{name} has {number} {key}, but its prompt has <{mark}> {places} times. Correct the prompt"
    return None


def _row_loops(run: Run, setting: str, read: Read) -> str | None:
    """Refuse agent loops that rows name and that do not exist, or take one turn where trees grow."""
    known = {SINGLE_TURN, TOOL_AGENT, *own_loops(run)}
    for name, row in _each_row(run, read):
        loop = row.get("agent_name")
        if isinstance(loop, str) and loop not in known and not run.get(EXTERNAL):
            return f"agent_name of {name} is {loop!r}: {unknown(loop, sorted(known), f', or one of {LOOPS}')}"
        if loop == SINGLE_TURN and run.grows_trees and setting == TRAIN:
            return f"agent_name of {name} is {loop!r}: a loop of one turn has no turns to sample again"
    return None


def _of_files(problem: Callable[..., str | None]) -> tuple[Rule, Rule]:
    """Make the rules about the files of the training data and of the validation data."""
    train, validation = (
        functools.partial(problem, setting=setting, read=read)
        for setting, read in ((TRAIN, train_rows), (VALIDATION, validation_rows))
    )
    return Rule(TRAIN, train, stage=Stage.REHEARSAL), Rule(VALIDATION, validation, stage=Stage.REHEARSAL)


def _row_leaves(run: Run) -> str | None:
    leaves = run.atpo.expansion.leaves
    for name, row in _each_row(run, train_rows):
        wanted = row.get("__rollout_n__")
        if wanted is not None and wanted != leaves:
            return (
                f"__rollout_n__ of {name} is {wanted}, but a tree grows {leaves} leaves. Leave the column out, or use "
                "+atpo=chain"
            )
    return None


def _filtered(run: Run) -> str | None:
    """Refuse a limit that is below all prompts, where verl drops the longer ones."""
    reader = run.once(_reader)
    if reader is None:
        return None
    limited = dataclasses.replace(reader, limit=run.get(LIMIT), strict=True)
    for name, row in _each_row(run, train_rows):
        try:
            limited.check(row_fields(run, row), name)
            return None
        except ConfigError:
            continue
    return "with data.filter_overlong_prompts=True no row that was looked at is short enough; raise it"


def _custom_class(run: Run) -> str | None:
    path = run.get(CUSTOM)
    if path is None or str(path).startswith("pkg://") or Path(str(path)).is_file():
        return None
    return f"no such file, seen from {Path.cwd()}; correct the path"


def _answered(run: Run) -> str | None:
    """Warn of prompts that end with an answer."""
    for name, row in _each_row(run, train_rows):
        messages = row.get(run.get(PROMPT_KEY))
        last = messages[-1] if isinstance(messages, list) and messages else None
        if isinstance(last, Mapping) and last.get("role") == "assistant":
            return (
                f"the prompt of {name} ends with a message of the assistant, which the model would read. Remove it if "
                "it is the answer"
            )
    return None


def _live_tokens(run: Run) -> str | None:
    """Warn of control tokens in messages, which begin and end turns as those of the chat template do."""
    made = run.once(tokenizer)
    tokens = [] if made is None else [token for token in made.all_special_tokens if len(token.strip()) > 1]
    for name, row in _each_row(run, train_rows):
        messages = row.get(run.get(PROMPT_KEY))
        for message in messages if isinstance(messages, list) else ():
            text = str(message.get("content")) if isinstance(message, Mapping) else ""
            if found := next((token for token in tokens if token in text), None):
                return (
                    f"the prompt of {name} has the control token {found!r} in a message, where it acts as one. Remove "
                    "it, unless that is meant"
                )
    return None


def _batch(run: Run) -> str | None:
    files, batch = run.once(train_rows), run.number(BATCH, integer=True)
    totals = [rows.total for rows in files]
    most = run.get("data.train_max_samples")
    if not totals or not batch or any(total is None for total in totals):
        return None
    total = sum(total for total in totals if total is not None)
    total = min(total, most) if isinstance(most, int) and most > 0 else total
    if batch <= total:
        return None
    return f"the training data has {total} rows, so that there would be no step; set at most {total}"


def _mini_batch(run: Run) -> str | None:
    batch, mini_batch = run.number(BATCH, integer=True), run.number(MINI_BATCH, integer=True)
    if not batch or not mini_batch or mini_batch <= batch:
        return None
    return f"it is larger than {BATCH}={batch}, which verl refuses; set at most {batch}"


def _part_of_a_mini_batch(run: Run) -> str | None:
    batch, mini_batch = run.number(BATCH, integer=True), run.number(MINI_BATCH, integer=True)
    if not batch or not mini_batch or mini_batch > batch or batch % mini_batch == 0:
        return None
    return (
        f"{BATCH}={batch} is no multiple of it, so that the last update of each step is made from {batch % mini_batch} "
        f"prompts and padding; set a divisor of {batch}"
    )


RULES = (
    Rule(MINI_BATCH, _mini_batch, stage=Stage.REHEARSAL),
    Rule(MINI_BATCH, _part_of_a_mini_batch, stage=Stage.REHEARSAL, warns=True),
    *_of_files(_columns),
    Rule(BATCH, _batch, stage=Stage.REHEARSAL),
    *_of_files(_rows),
    *_of_files(_media),
    *_of_files(_nulls),
    *_of_files(_row_loops),
    Rule(TRAIN, _row_leaves, in_trees, Stage.REHEARSAL),
    Rule(LIMIT, _filtered, lambda run: bool(run.get("data.filter_overlong_prompts")), Stage.REHEARSAL),
    Rule(CUSTOM, _custom_class, stage=Stage.REHEARSAL),
    Rule(TRAIN, _live_tokens, stage=Stage.REHEARSAL, warns=True),
    Rule(TRAIN, _answered, stage=Stage.REHEARSAL, warns=True),
)
