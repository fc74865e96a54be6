"""Families of causal language models on packs, against rows run apart: `python -m benchmarks.packed.families`.

    python -m benchmarks.packed.families [--families NAME ...] [--all] [--seed 0] [--out FILE.json]

Each family is a tiny model of random weights in float32. Its log-probabilities, entropies and gradients on random tries
are compared with those of its own code with plain attention on each row by itself. A family is `exact` (all differences
below 1e-5 of the norm), or refused, with the words that a user would read. `--all` tries every causal language model
that the installed transformers has. Writes `benchmarks/results/packed_families.json`, the table in docs/packed.md.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from tabulate import tabulate
from transformers import AutoConfig

from tests.assets.families import EXPERTS, FAMILIES, judge, known

RESULT = Path(__file__).parents[1] / "results" / "packed_families.json"


def table(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The rows of a result file as the docs show them."""
    made = []
    for row in rows:
        reason = str(row.get("reason", "")).partition("packed rows: ")[2].removesuffix("; leave out +train=packed.")
        first, _, others = reason.partition("; it ")
        reason = f"{first}; more of its kind" if others else reason
        kinds = ("log_probs", "entropy", "gradient")
        differences = ", ".join(f"{row[name]:.0e}" for name in kinds) if "log_probs" in row else reason
        made.append(
            {"family": row["family"], "`model_type`": row["model_type"], "packed rows": row["verdict"],
             "differences (log-probs, entropies, gradients) or the reason": differences}
        )  # fmt: skip
    return made


def every_family() -> Iterator[tuple[str, tuple[str, dict[str, Any]]]]:
    """List all causal language models of the installed transformers, each with the tiny settings that it has."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            config = AutoConfig.for_model(kind).get_text_config()
        except Exception:
            yield kind, (kind, {})
            continue
        yield kind, (kind, known(config, EXPERTS | {"sliding_window": 7}))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--all", action="store_true", help="every causal language model of transformers instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the table")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    wanted = dict(every_family()) if options.all else {name: FAMILIES[name] for name in options.families}
    found = {}
    for name, (kind, more) in wanted.items():
        try:
            found[name] = {"model_type": kind, **judge(kind, more, options.seed)}
        except Exception as error:
            found[name] = {"model_type": kind, "verdict": "not run", "reason": f"{type(error).__name__}: {error}"[:200]}
        print(name, json.dumps(found[name]), flush=True)
        if options.out:
            settings = {"transformers": transformers.__version__, "torch": torch.__version__, "seed": options.seed}
            rows = [{"family": each, **line} for each, line in found.items()]
            options.out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
    print(tabulate([{"family": name, **line} for name, line in found.items()], headers="keys", tablefmt="github"))


if __name__ == "__main__":
    main()
