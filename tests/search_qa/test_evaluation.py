"""The paper's table from verl's metrics file."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from verl_atpo.report.metrics_file import read_steps
from verl_atpo.search_qa.evaluation import EvaluationError, averages, last_validation, main


def record(step: int, **scores: dict[str, float]) -> str:
    data: dict[str, float] = {"val-aux/num_turns/mean": 3.0}
    for source, (acc, f1) in scores.items():
        source = source.replace("two", "2")
        data |= {
            f"val-core/{source}/acc/mean@1": acc,
            f"val-aux/{source}/acc_success_only/mean@1": 2 * acc,
            f"val-aux/{source}/em/mean@1": 2 * acc,
            f"val-aux/{source}/f1/mean@1": f1,
            f"val-aux/{source}/score/mean@1": -1.0,
        }
    return json.dumps({"step": step, "data": data})


@pytest.fixture
def files(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        "".join(
            f"{line}\n"
            for line in [
                record(0, hotpotqa=(0.0, 0.1), twowikimultihopqa=(0.0, 0.2), nq=(0.0, 0.3)),
                json.dumps({"step": 1, "data": {"actor/loss": 1.0}}),
                record(2, hotpotqa=(0.2, 0.4), twowikimultihopqa=(0.4, 0.5), nq=(0.5, 0.6)),
            ]
        )
    )
    sources = ["hotpotqa"] * 30 + ["2wikimultihopqa"] * 10 + ["nq"] * 60
    pd.DataFrame({"data_source": sources}).to_parquet(tmp_path / "test.parquet")
    return tmp_path


def test_the_table(files, capsys):
    (files / "hydra" / ".hydra").mkdir(parents=True)
    (files / "hydra" / ".hydra" / "config.yaml").write_text("actor: {lr: 1}\nother: ${actor.lr}\n")
    (files / "hydra" / ".hydra" / "overrides.yaml").write_text("- +atpo=paper\n")
    main([str(files / "metrics.jsonl"), "--test", str(files / "test.parquet"), "--out", str(files)])
    result = json.loads((files / "table.json").read_text())
    assert result["step"] == 2
    assert list(result["benchmarks"]) == ["hotpotqa", "2wikimultihopqa", "nq"]  # the paper's order
    assert result["benchmarks"]["hotpotqa"] == {"questions": 30, "em": 0.2, "f1": 0.4, "em_finished": 0.4}
    # (0.2 + 0.4) / 2; (30 * 0.2 + 10 * 0.4) / 40; (30 * 0.4 + 10 * 0.5 + 60 * 0.6) / 100
    assert result["averages"]["multi-hop, mean of benchmarks"]["em"] == pytest.approx(0.3)
    assert result["averages"]["multi-hop, mean of questions"]["em"] == pytest.approx(0.25)
    assert result["averages"]["all, mean of questions"]["f1"] == pytest.approx(0.53)
    assert "single-hop, mean of questions" not in result["averages"]  # one benchmark only
    assert result["settings"] == {"overrides": ["+atpo=paper"], "config": {"actor": {"lr": 1}, "other": "${actor.lr}"}}
    table = (files / "table.md").read_text()
    assert "| hotpotqa " in table and "20.0" in table and "+atpo=paper" in table
    assert "Trajectories failed in hotpotqa, 2wikimultihopqa, nq" in table
    assert capsys.readouterr().out.strip() == table.strip()


def test_another_step_can_be_asked_for(files):
    steps = read_steps(files / "metrics.jsonl")
    assert last_validation(steps, 0)[1]["nq"]["f1"] == 0.3
    with pytest.raises(EvaluationError, match="no validation at step 1"):
        last_validation(steps, 1)


def test_a_test_set_that_was_not_validated_is_refused(files, capsys):
    pd.DataFrame({"data_source": ["musique"]}).to_parquet(files / "other.parquet")
    with pytest.raises(SystemExit):
        main([str(files / "metrics.jsonl"), "--test", str(files / "other.parquet"), "--out", str(files)])
    assert "data.val_files" in capsys.readouterr().err


def test_a_measure_that_a_benchmark_lacks_has_no_average():
    both = averages({"nq": {"em": 1.0, "f1": 1.0}, "popqa": {"em": 0.0}}, {"nq": 1, "popqa": 3})
    assert both["single-hop, mean of questions"] == {"em": 0.25}
    assert "all, mean of questions" not in both  # the same as the one group
