"""Makes verl data files of the seven benchmarks: `python -m recipes.data.prepare --out DIR`.

DIR then holds `train_multihop.parquet`, `train_singlehop.parquet` and `test.parquet`. A file that was made with the
same arguments from the same sources is left as it is.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recipes.data.benchmarks import BENCHMARKS, TRAIN_BENCHMARKS, select_benchmarks
from recipes.data.plan import Output, plan_outputs
from recipes.data.prompts import PROMPTS
from recipes.data.questions import Question, parse_questions
from recipes.data.rows import build_row, read_stamp, write_rows
from recipes.data.sources import Source


def sample(questions: Iterable[Question], size: int, seed: str) -> list[Question]:
    """``size`` questions drawn uniformly from a stream (all, if it has fewer), in the stream's order."""
    rng = random.Random(seed)
    kept: list[tuple[int, Question]] = []
    for number, question in enumerate(questions):
        if number < size:
            kept.append((number, question))
        elif (place := rng.randrange(number + 1)) < size:
            kept[place] = number, question
    return [question for _, question in sorted(kept, key=lambda pair: pair[0])]


def read_source(source: Source, is_train: bool, args: argparse.Namespace) -> Iterator[Question]:
    """The questions of a source, as many as were asked for.

    Raises:
        ValueError: there is none.
    """
    progress = tqdm(source.lines(), desc=f"{source.benchmark} {source.split}", unit=" rows")
    questions: Iterable[Question] = parse_questions(progress, source.location, source.benchmark)
    if is_train:
        questions = islice(questions, args.limit)
    elif args.limit_test is not None:
        questions = sample(questions, args.limit_test, f"{args.seed}-{source.benchmark}")
    is_empty = True
    for question in questions:
        is_empty = False
        yield question
    progress.close()
    if is_empty:
        raise ValueError(f"{source.location}: no question of {source.benchmark} in it; check the file")


def output_rows(output: Output, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of one file."""
    index = 0
    for source in output.sources:
        for question in read_source(source, output.is_train, args):
            yield build_row(question, source.benchmark, source.split, index, args.style)
            index += 1


def stamp_of(output: Output, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that the content of one file depends on."""
    limits = {"limit": args.limit} if output.is_train else {"limit_test": args.limit_test, "seed": args.seed}
    sources = [source.fingerprint() for source in output.sources]
    return {"style": args.style, "system_message": PROMPTS[args.style], "sources": sources, **limits}


def prepare(args: argparse.Namespace) -> list[Path]:
    """Writes the files that are missing or were made otherwise; returns all of them."""
    args.out.mkdir(parents=True, exist_ok=True)
    root = args.source or (None if args.file else "hub")
    files = []
    for output in plan_outputs(select_benchmarks(args.task), root, args.file):
        file, stamp = args.out / output.file_name, stamp_of(output, args)
        files.append(file)
        if read_stamp(file) == stamp:
            print(f"{file}: already there")
            continue
        print(f"{file}: {write_rows(output_rows(output, args), file, stamp)} rows")
    return files


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"got {number}, expected at least 1")
    return number


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--source", help="hub (default without --file), or a folder with <benchmark>/<split>.jsonl")
    parser.add_argument("--file", action="append", default=[], help="benchmark:split=path; instead of --source's")
    parser.add_argument("--style", choices=list(PROMPTS), default="tools", help="how the model is told to search")
    tasks = ["all", *TRAIN_BENCHMARKS, *BENCHMARKS]
    parser.add_argument("--task", nargs="+", choices=tasks, default=["all"], help="benchmarks to use")
    parser.add_argument("--limit", type=_positive, help="rows of each training set, the first ones")
    parser.add_argument("--limit-test", type=_positive, help="rows of each benchmark in the test set, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0, help="seed of --limit-test")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    prepare(parse_arguments())
