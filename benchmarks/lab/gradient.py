"""Quality of one step's gradient: `python -m benchmarks.lab.gradient --task text_world --arms grpo tree`.

Training runs differ by luck; a single step's gradient can be drawn again and again with the same weights. Every arm
gets the same prompts and the same policy, that of GRPO after some steps. The measure is the cosine between a step's
gradient and that of the expected outcome, estimated from many steps of chains: what a small step along the former
gains, over what the best step of its length would. One file for all; what it holds already is not measured again, and
policy and direction are kept among the outputs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

from benchmarks import markdown
from benchmarks.lab.arms import ARMS
from benchmarks.lab.episodes import Task
from benchmarks.lab.run import Plan, Run
from benchmarks.lab.tasks import TASKS

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "lab_gradient.json"
OTHERS = 1000
"""Added to the seed for the draws of the expected outcome's gradient, which must not be those of any arm."""
EXPECTED_OUTCOME = {"scaled": False, "aggregation": "seq-mean-token-sum"}
"""Makes the arm `grpo` the policy gradient of the mean outcome: no scale, all tokens of a row weigh the same."""
Measured = dict[str, Any]


def draws(run: Run, policy: dict[str, torch.Tensor], count: int) -> torch.Tensor:
    """(D, P) gradients of a run's next steps, all with one policy."""
    return torch.stack([run.gradient(policy) for _ in range(count)])


@dataclasses.dataclass(frozen=True)
class Place:
    """Run and policy at which gradients are compared.

    Attributes:
        task, world, seed: of all runs.
        after: steps of GRPO that have made the policy.
        reference: steps of chains that the direction is the mean of.
    """

    task: str
    world: int
    seed: int
    after: int
    reference: int

    def plan(self, arm: str) -> Plan:
        """Plan of an arm's run."""
        return Plan(self.task, arm, self.world, self.seed)

    def policy(self, task: Task) -> dict[str, torch.Tensor]:
        """Weights of GRPO after some steps."""
        trained = Run(self.plan("grpo"), task)
        for _ in range(self.after):
            trained.train()
        return {name: weight.clone() for name, weight in trained.state()["model"].items()}

    def look(self, task: Task, work: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The policy's weights, and the (P,) gradient of the expected outcome there; kept in the folder ``work``."""
        kept = work / f"{self.task}_w{self.world}_s{self.seed}_after{self.after}_of{self.reference}.pt"
        if kept.exists():
            policy, best_P = torch.load(kept, weights_only=True)
            return policy, best_P
        policy = self.policy(task)
        elsewhere = dataclasses.replace(self.plan("grpo"), seed=self.seed + OTHERS)
        best_P = draws(Run(elsewhere, task, **EXPECTED_OUTCOME), policy, self.reference).mean(0)
        work.mkdir(parents=True, exist_ok=True)
        torch.save((policy, best_P), kept)
        return policy, best_P


def signal_share(gradients_DP: torch.Tensor) -> float:
    """Unbiased estimate of ``|E g|^2 / E|g|^2``: 1 without noise, 1/n of a gradient's that takes n steps to average."""
    squares = gradients_DP.square().sum()
    count = len(gradients_DP)
    return float((gradients_DP.sum(0).square().sum() - squares) / ((count - 1) * squares))


def measure(plan: Plan, task: Task, policy: dict[str, torch.Tensor], best_P: torch.Tensor, count: int) -> Measured:
    """Measure the quality of the gradients of an arm's steps.

    Args:
        plan: which arm, world and seed.
        task: its task in its world.
        policy: the weights.
        best_P: gradient of the expected outcome, uphill as losses are: negative.
        count: steps to draw.
    """
    run = Run(plan, task)
    gradients = draws(run, policy, count)
    towards = cosine_similarity(gradients, best_P[None])
    return {
        "arm": plan.arm,
        "cosine": towards.tolist(),
        "cosine_of_mean": float(cosine_similarity(gradients.mean(0), best_P, dim=0)),
        "signal_share": signal_share(gradients),
        "sampled_tokens": run.sampled_tokens / count,
    }


def table(rows: Sequence[Measured], baseline: str = "grpo") -> str:
    """Write a Markdown table, a row per arm; gradients of the same prompts are compared."""
    lines = []
    (of_baseline,) = [torch.tensor(row["cosine"]) for row in rows if row["arm"] == baseline]
    for row in rows:
        cosines = torch.tensor(row["cosine"])
        ratio, error = _ratio(cosines, of_baseline)
        lines.append(
            {
                "arm": ARMS[row["arm"]].title,
                "steps drawn": len(cosines),
                "cosine, one step": f"{cosines.mean():.3f}",
                "over GRPO's": "1" if row["arm"] == baseline else f"{ratio:.2f} ± {error:.2f}",
                "cosine, mean of all": f"{row['cosine_of_mean']:.2f}",
                "signal in a step": f"{row['signal_share']:.3f}",
                "sampled tokens": f"{row['sampled_tokens']:.0f}",
            }
        )
    return markdown.table(lines)


def tables(file: Path) -> str:
    """Write all measurements as Markdown tables."""
    said = []
    for each in json.loads(file.read_text()) if file.exists() else []:
        run = each["settings"]
        said.append(
            f"{run['task']}, world {run['world']}, after {run['after']} steps of GRPO; the direction is the mean of "
            f"{run['reference']} steps:\n\n{table(each['rows'])}"
        )
    return "\n\n".join(said) or "Nothing is measured yet."


def _ratio(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[float, float]:
    """Ratio of means of paired draws and its standard error (delta method)."""
    ratio = float(ours.mean() / theirs.mean())
    left = ours - ratio * theirs
    return ratio, float(left.std() / len(left) ** 0.5 / theirs.mean().abs())


def keep(file: Path, conditions: dict[str, Any], found: object) -> None:
    """Put what was found into a file, in the place of what was found with the same settings before."""
    kept = json.loads(file.read_text()) if file.exists() else []
    kept = [each for each in kept if each["settings"] != conditions]
    kept.append({"settings": conditions, "found": found})
    file.write_text(json.dumps(kept, indent=1))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab.gradient", description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, default="text_world")
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--after", type=int, default=10, help="steps of GRPO that have made the policy")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["grpo", "tree_4"], metavar="ARM")
    parser.add_argument("--draws", type=int, default=40, help="steps of an arm")
    parser.add_argument("--reference", type=int, default=120, help="steps that the best direction is the mean of")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "lab_gradient", help="policies and directions")
    options = parser.parse_args()
    torch.set_num_threads(1)

    place = Place(options.task, options.world, options.seed, options.after, options.reference)
    conditions = dataclasses.asdict(place) | {"draws": options.draws}
    kept = json.loads(options.out.read_text()) if options.out.exists() else []
    rows = next((each["rows"] for each in kept if each["settings"] == conditions), None)
    if rows is None:
        rows = []
        kept.append({"settings": conditions, "rows": rows})
    arms = dict.fromkeys(["grpo", *options.arms])  # the table compares all with GRPO
    wanted = [arm for arm in arms if arm not in {row["arm"] for row in rows}]
    if wanted:
        task = TASKS[place.task](place.world)
        policy, best_P = place.look(task, options.work)
        print(f"policy and direction are there; {len(wanted)} arms", flush=True)
    for arm in wanted:
        rows.append(measure(place.plan(arm), task, policy, best_P, options.draws))
        options.out.write_text(json.dumps(kept, indent=1))
        print(f"{arm}: {sum(rows[-1]['cosine']) / options.draws:.3f}", flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
