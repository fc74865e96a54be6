"""Rules about the data: its files, columns and some rows, and batch sizes that it can fill."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from verl_atpo.settings import did_you_mean, refuse
from verl_atpo.startup.data_checks import SCORED_BY_TRUTH, Reader
from verl_atpo.startup.materials import (
    TRAIN,
    VALIDATION,
    Rows,
    is_multimodal,
    schemas,
    tokenizer,
    tools,
    train_rows,
    validation_rows,
)
from verl_atpo.startup.rules.rule import Rule, Run, Stage
from verl_atpo.startup.verl_config import ACTOR

SUBJECT = "data"
PROMPT_KEY = "data.prompt_key"
BATCH, MINI_BATCH = "data.train_batch_size", f"{ACTOR}.ppo_mini_batch_size"
MANAGER = "reward.reward_manager.name"
NEEDED = {
    "data_source": "by which rewards and validation tell tasks apart",
    "reward_model": "whose entry ground_truth the reward function gets",
}
"""Columns that verl's reward managers read."""


def row_fields(run: Run, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a data file with the fields that verl's data set derives from it."""
    info = row.get("extra_info") or {}
    kwargs = info.get("tools_kwargs") if isinstance(info, Mapping) else None
    return {**row, "raw_prompt": row.get(run.get(PROMPT_KEY)), "tools_kwargs": kwargs}


def _columns(setting: str, read: Callable[[Run], tuple[Rows, ...]]) -> Rule:
    def problem(run: Run) -> None:
        for rows in run.once(read):
            key = run.get(PROMPT_KEY)
            if key not in rows.columns:
                hint = did_you_mean(key, rows.columns)
                why = f"{rows.file} has no such column, only {', '.join(rows.columns)}. Name the column of the prompts"
                raise refuse(PROMPT_KEY, key, f"{why}.{hint}")
            for name in NEEDED if run.get(MANAGER) in SCORED_BY_TRUTH else ():
                if name not in rows.columns:
                    hint = did_you_mean(name, rows.columns)
                    raise refuse(
                        setting,
                        rows.file,
                        f"it has no column {name}, {NEEDED[name]}; it has {', '.join(rows.columns)}. Add the column to "
                        f"the data.{hint}",
                    )

    return Rule(SUBJECT, setting, problem, stage=Stage.REHEARSAL)


def _reader(run: Run) -> Reader | None:
    """Make the reader of the rows; None for a tokenizer that is not on this machine."""
    from verl_atpo.tools.stateful import names_in_rows

    made = run.once(tokenizer)
    if made is None:
        return None
    names = [name for tool in run.once(tools) for name in names_in_rows(tool)]
    reader = Reader.of(run.config, made, names, run.once(schemas), multimodal=run.once(is_multimodal))
    return dataclasses.replace(reader, limit=None) if run.get("data.filter_overlong_prompts") else reader


def _rows(setting: str, read: Callable[[Run], tuple[Rows, ...]]) -> Rule:
    def problem(run: Run) -> None:
        reader = run.once(_reader)
        if reader is None:
            return
        for rows in run.once(read):
            for name, row in rows.names():
                reader.check(row_fields(run, row), name)

    return Rule(SUBJECT, setting, problem, stage=Stage.REHEARSAL)


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
    Rule(SUBJECT, MINI_BATCH, _mini_batch, stage=Stage.REHEARSAL),
    Rule(SUBJECT, MINI_BATCH, _part_of_a_mini_batch, stage=Stage.REHEARSAL, warns=True),
    _columns(TRAIN, train_rows),
    _columns(VALIDATION, validation_rows),
    Rule(SUBJECT, BATCH, _batch, stage=Stage.REHEARSAL),
    _rows(TRAIN, train_rows),
    _rows(VALIDATION, validation_rows),
)
