"""Preprocessing of the benchmarks: sources, schema, prompts, rows as verl reads them, and running it again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from transformers import AutoTokenizer

from recipes.data.benchmarks import BENCHMARKS
from recipes.data.prepare import parse_arguments, prepare, sample
from recipes.data.prompts import PROMPTS, build_messages
from recipes.data.questions import Question, SchemaError, parse_questions
from recipes.data.rows import SCHEMA, build_row, read_stamp, write_rows
from recipes.data.sources import Source
from tests.assets.qa_data import real_data
from tests.assets.tiny_model import write_model
from verl_atpo.search_qa.rewards.qa import compute_score
from verl_atpo.search_qa.rewards.response import format_error

TRAIN_SPLITS = {"hotpotqa": "train", "nq": "train"}


def make_row(benchmark: str, split: str, number: int) -> dict[str, Any]:
    return {
        "id": f"{split}_{number}",
        "question": f"{benchmark} {split} question {number}?",
        "golden_answers": [f"answer {number}", f"né {number}"],
        "metadata": {"number": number, "level": "élevé"} if number % 2 else {"kind": ["a", {"b": None}]},
    }


def write_jsonl(file: Path, rows: list[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All benchmarks, laid out as on the hub: 5 training questions and 4 to 10 of test."""
    root = tmp_path / "local"
    for count, benchmark in enumerate(BENCHMARKS.values(), start=4):
        for split, rows in ((benchmark.test_split, count), (TRAIN_SPLITS.get(benchmark.name), 5)):
            if split:
                rows_of_split = [make_row(benchmark.name, split, number) for number in range(rows)]
                write_jsonl(root / benchmark.name / f"{split}.jsonl", rows_of_split)
    return root


def run(out: Path, *arguments: str) -> dict[str, list[dict[str, Any]]]:
    """Runs the command; returns the rows of each file that it names."""
    files = prepare(parse_arguments(["--out", str(out), *arguments]))
    return {file.name: pq.read_table(file).to_pylist() for file in files}


def sources_of(rows: list[dict[str, Any]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["data_source"]] = counts.get(row["data_source"], 0) + 1
    return counts


# what is written


def test_all_benchmarks_of_a_folder(folder: Path, tmp_path: Path) -> None:
    files = run(tmp_path / "out", "--source", str(folder))
    assert {name: len(rows) for name, rows in files.items()} == {
        "train_multihop.parquet": 5,
        "train_singlehop.parquet": 5,
        "test.parquet": 4 + 5 + 6 + 7 + 8 + 9 + 10,
    }
    assert list(sources_of(files["test.parquet"]).items()) == list(zip(BENCHMARKS, range(4, 11), strict=True))
    assert sources_of(files["train_multihop.parquet"]) == {"hotpotqa": 5}
    assert sources_of(files["train_singlehop.parquet"]) == {"nq": 5}
    assert [row["extra_info"]["index"] for row in files["test.parquet"]] == list(range(49))
    splits = {row["data_source"]: row["extra_info"]["split"] for row in files["test.parquet"]}
    assert splits == {name: benchmark.test_split for name, benchmark in BENCHMARKS.items()}


def test_a_row_in_full(folder: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "out", "--source", str(folder))["train_singlehop.parquet"][1] == {
        "data_source": "nq",
        "prompt": [
            {"role": "system", "content": PROMPTS["tools"]},
            {"role": "user", "content": "nq train question 1?"},
        ],
        "ability": "qa",
        "reward_model": {"style": "rule", "ground_truth": {"target": ["answer 1", "né 1"]}},
        "extra_info": {
            "split": "train",
            "index": 1,
            "id": "train_1",
            "question": "nq train question 1?",
            "metadata": '{"number": 1, "level": "élevé"}',
        },
    }


@pytest.mark.parametrize(
    ("task", "names", "tests"),
    [
        (["multihop"], {"train_multihop.parquet", "test.parquet"}, 4 + 5 + 6 + 7),
        (["singlehop"], {"train_singlehop.parquet", "test.parquet"}, 8 + 9 + 10),
        (["musique"], {"test.parquet"}, 6),
        (["nq", "bamboogle"], {"train_singlehop.parquet", "test.parquet"}, 7 + 8),
    ],
)
def test_a_task_reads_and_writes_its_own_files(
    folder: Path, tmp_path: Path, task: list[str], names: set[str], tests: int
) -> None:
    files = run(tmp_path / "out", "--source", str(folder), "--task", *task)
    assert files.keys() == names
    assert len(files["test.parquet"]) == tests


def test_limits_and_styles(folder: Path, tmp_path: Path) -> None:
    arguments = ["--source", str(folder), "--limit", "2", "--limit-test", "3"]
    tools, tags = run(tmp_path / "a", *arguments), run(tmp_path / "b", *arguments, "--style", "tags")
    other = run(tmp_path / "c", *arguments, "--seed", "1")
    assert [row["extra_info"]["id"] for row in tools["train_multihop.parquet"]] == ["train_0", "train_1"]
    assert sources_of(tools["test.parquet"]) == dict.fromkeys(BENCHMARKS, 3)
    assert {row["prompt"][0]["content"] for row in tags["test.parquet"]} == {PROMPTS["tags"]}
    ids = [[row["extra_info"]["id"] for row in files["test.parquet"]] for files in (tools, tags, other)]
    assert ids[0] == ids[1] != ids[2]


@given(st.integers(0, 40), st.integers(1, 50), st.text(max_size=3))
def test_a_sample_is_distinct_ordered_and_repeatable(available: int, size: int, seed: str) -> None:
    questions = [Question(str(number), "q", ["a"], {}) for number in range(available)]
    drawn = sample(iter(questions), size, seed)
    assert drawn == sample(iter(questions), size, seed)
    numbers = [int(question.id) for question in drawn]
    assert len(drawn) == min(size, available) and numbers == sorted(set(numbers))


def test_a_sample_is_uniform() -> None:
    questions = [Question(str(number), "q", ["a"], {}) for number in range(10)]
    hits = [0] * 10
    for seed in range(2000):
        for question in sample(questions, 3, str(seed)):
            hits[int(question.id)] += 1
    # binomial with n = 2000, p = 0.3: mean 600, standard deviation 20.5; five of them are 102
    assert all(abs(count - 600) < 102 for count in hits)


def test_single_files_and_a_merged_one(tmp_path: Path) -> None:
    rows = [make_row("x", "dev", number) | {"data_source": name} for name in ("musique", "nq") for number in range(3)]
    merged = write_jsonl(tmp_path / "merged.jsonl", rows)
    plain = write_jsonl(tmp_path / "plain.jsonl", [make_row("hotpotqa", "dev", number) for number in range(2)])
    files = run(
        tmp_path / "out",
        *("--file", f"musique:dev={merged}", "--file", f"nq:dev={merged}", "--file", f"hotpotqa:train={plain}"),
    )
    assert files.keys() == {"train_multihop.parquet", "test.parquet"}
    assert sources_of(files["test.parquet"]) == {"musique": 3, "nq": 3}
    assert sources_of(files["train_multihop.parquet"]) == {"hotpotqa": 2}


def test_a_file_stands_in_for_one_of_the_source(folder: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "one.jsonl", [make_row("popqa", "test", 0)])
    files = run(tmp_path / "out", "--source", str(folder), "--file", f"popqa:test={file}")
    assert sources_of(files["test.parquet"])["popqa"] == 1 and sources_of(files["test.parquet"])["nq"] == 8


@pytest.mark.parametrize("benchmark", ["hotpotqa", "nq"])
def test_real_questions(tmp_path: Path, benchmark: str) -> None:
    file = real_data(f"{benchmark}_dev.jsonl")
    rows = run(tmp_path / "out", "--file", f"{benchmark}:dev={file}")["test.parquet"]
    read = [json.loads(line) for line in file.open(encoding="utf-8")]
    assert len(rows) == len(read) >= 1000
    for row, question in zip(rows, read, strict=True):
        assert row["extra_info"]["question"] == question["question"].strip()
        assert row["reward_model"]["ground_truth"]["target"] == question["golden_answers"]


# where from


def test_an_address_is_read_as_a_file_is(folder: Path) -> None:
    """The hub's way of reading, on an address that needs no network; blank and unusual line ends included."""
    file = folder / "musique" / "dev.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("question 1", "question\u2028 1") + "\n", encoding="utf-8")
    local = list(parse_questions(Source("musique", "dev", str(file)).lines(), "f", "musique"))
    streamed = list(parse_questions(Source("musique", "dev", file.as_uri()).lines(), "f", "musique"))
    assert streamed == local and len(local) == 6 and "\u2028" in local[1].question


def test_the_hub_is_the_default_source(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> None:
    monkeypatch.setattr("recipes.data.sources.HUB", folder.as_uri())
    files = run(tmp_path / "out", "--task", "bamboogle")
    assert sources_of(files["test.parquet"]) == {"bamboogle": 7}
    stamp = read_stamp(tmp_path / "out" / "test.parquet")
    assert stamp and stamp["sources"][0]["location"] == f"{folder.as_uri()}/bamboogle/test.jsonl"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--source", "nowhere"], FileNotFoundError, "nowhere/hotpotqa/train.jsonl: no such file; put split 'train'"),
        (["--file", "nq:dev"], ValueError, "got 'nq:dev', expected benchmark:split=path"),
        (["--file", "squad:dev=FILE"], ValueError, "got benchmark 'squad'"),
        (["--file", "nq:dev=FILE", "--task", "multihop"], ValueError, "add it to --task"),
        (["--file", "popqa:train=FILE"], ValueError, r"training sets come from \['hotpotqa', 'nq'\]"),
        (["--file", "nq:dev=FILE", "--file", "nq:test=FILE"], ValueError, "a second file for the same set"),
        (["--file", "nq:dev=absent.jsonl"], FileNotFoundError, "nq:dev=absent.jsonl: no such file"),
        (["--file", "musique:dev=FILE"], ValueError, "no question of musique in it"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, arguments: list[str], error: type[Exception], message: str) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [make_row("nq", "dev", 0) | {"data_source": "nq"}])
    with pytest.raises(error, match=message):
        run(tmp_path / "out", *(argument.replace("FILE", str(file)) for argument in arguments))
    assert not list((tmp_path / "out").iterdir())


# schema


@pytest.mark.parametrize(
    ("changes", "field", "found", "expected"),
    [
        ({"question": None}, "question", "None", "a string that is not blank"),
        ({"question": "  "}, "question", "'  '", "a string that is not blank"),
        ({"golden_answers": "Paris"}, "golden_answers", "'Paris'", "a list of at least one string"),
        ({"golden_answers": []}, "golden_answers", r"\[\]", "a list of at least one string"),
        ({"golden_answers": ["a", ""]}, "golden_answers", r"\['a', ''\]", "none of them blank"),
        ({"golden_answers": [1998]}, "golden_answers", r"\[1998\]", "a list of at least one string"),
        ({"metadata": "x"}, "metadata", "'x'", "an object, null or no such field"),
        ({"id": None}, "id", "None", "a string or a number"),
        ({"question": ["w" * 500]}, "question", r"\['w{78}\.\.\.", "a string"),
    ],
)
def test_a_bad_field_is_named(changes: dict[str, Any], field: str, found: str, expected: str) -> None:
    lines = [json.dumps(make_row("nq", "dev", 0)), "", json.dumps(make_row("nq", "dev", 1) | changes)]
    pattern = rf"^dir/f\.jsonl, row 3, field '{field}': got {found}, expected .*{expected}"
    with pytest.raises(SchemaError, match=pattern):
        list(parse_questions(lines, "dir/f.jsonl", "nq"))


@pytest.mark.parametrize("field", ["id", "question", "golden_answers"])
def test_a_missing_field_is_named(field: str) -> None:
    row = make_row("nq", "dev", 0)
    del row[field]
    with pytest.raises(SchemaError, match=rf"^f, row 1, field '{field}': got no such field, expected"):
        list(parse_questions([json.dumps(row)], "f", "nq"))


@pytest.mark.parametrize("line", ["{", "[1]", "null", "plain text"])
def test_a_line_that_is_no_object_is_named(line: str) -> None:
    with pytest.raises(SchemaError, match=r"^f, row 1: got .* expected one JSON object"):
        list(parse_questions([line], "f", "nq"))


def test_passages_are_left_out_of_the_metadata() -> None:
    row = make_row("nq", "dev", 1) | {"metadata": {"context": {"title": []}, "paragraphs": [], "type": "bridge"}}
    assert next(parse_questions([json.dumps(row)], "f", "nq")).metadata == {"type": "bridge"}


# running it again


def test_a_second_run_does_nothing_and_a_changed_one_rebuilds(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, arguments = tmp_path / "out", ["--source", str(folder), "--task", "nq"]
    run(out, *arguments)

    def changed(*more: str) -> set[str]:
        before = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
        run(out, *arguments, *more)
        return {file.name for file in out.iterdir() if file.stat().st_mtime_ns != before.get(file.name)}

    assert changed() == set()
    assert changed("--limit", "3") == {"train_singlehop.parquet"}
    assert changed("--limit", "3", "--limit-test", "3") == {"test.parquet"}
    assert changed("--limit", "3", "--limit-test", "3") == set()
    assert changed("--style", "tags") == {"test.parquet", "train_singlehop.parquet"}
    monkeypatch.setitem(PROMPTS, "tags", "another system message")
    assert changed("--style", "tags") == {"test.parquet", "train_singlehop.parquet"}
    write_jsonl(folder / "nq" / "test.jsonl", [make_row("nq", "test", 0)])
    assert changed("--style", "tags") == {"test.parquet"}
    os.utime(folder / "nq" / "train.jsonl", ns=(0, 0))
    assert changed("--style", "tags") == {"train_singlehop.parquet"}


def test_a_run_that_fails_leaves_nothing_half_done(folder: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "out", folder / "nq" / "train.jsonl"
    run(out, "--source", str(folder), "--task", "nq")
    before = (out / "train_singlehop.parquet").read_bytes()
    file.write_text(file.read_text(encoding="utf-8") + "broken\n", encoding="utf-8")
    with pytest.raises(SchemaError, match=r"nq/train\.jsonl, row 6"):
        run(out, "--source", str(folder), "--task", "nq")
    assert (out / "train_singlehop.parquet").read_bytes() == before
    assert {path.name for path in out.iterdir()} == {"train_singlehop.parquet", "test.parquet"}


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    produced = []

    def rows() -> Any:
        for number in range(4500):
            produced.append(number)
            if number == 2001:  # the first row group is on its way to the disk before the second is complete
                assert (tmp_path / ".f.parquet.partial").exists() and not (tmp_path / "f.parquet").exists()
            yield build_row(Question(str(number), "q", ["a"], {}), "nq", "train", number, "tools")

    assert write_rows(rows(), tmp_path / "f.parquet", {"a": 1}) == len(produced) == 4500
    file = pq.ParquetFile(tmp_path / "f.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [2000, 2000, 500]
    assert file.schema_arrow.remove_metadata().equals(SCHEMA)
    assert read_stamp(tmp_path / "f.parquet") == {"a": 1}


# prompts


@pytest.mark.parametrize("style", PROMPTS)
def test_prompts_name_the_box_and_hold_no_control_characters(style: str) -> None:
    system, user = build_messages("who?", style)
    assert (system["role"], user) == ("system", {"role": "user", "content": "who?"})
    assert "\\boxed{" in system["content"]
    assert all(character.isprintable() or character == "\n" for character in system["content"])


CALLS = {
    "tools": (
        '<tool_call>\n{"name": "search", "arguments": {"query": "QUERY"}}\n</tool_call>\n'
        "user\n<tool_response>\npassages\n</tool_response>\nassistant\n"
    ),
    "tags": "<think>needed</think>\n<search>QUERY</search>\n<result>\npassages\n</result>\n<think>so</think>\n",
}
FINAL = r"<answer>The final answer is \boxed{ANSWER}</answer>"


def test_the_prompt_of_the_tags_shows_a_response_that_is_well_formed() -> None:
    shown = PROMPTS["tags"].partition("looks like this:\n")[2].partition("\n\nIn place of")[0]
    assert shown.count("\n") == 6 and format_error(shown, "tags") is None
    assert all(f"{tag}>" in shown for tag in ("<think", "</search", "<result", "</answer"))


@pytest.mark.parametrize("style", PROMPTS)
def test_what_the_prompt_asks_for_is_what_the_reward_checks(style: str) -> None:
    asked = CALLS[style] + FINAL
    assert FINAL in PROMPTS[style]
    assert format_error(asked, style) is None
    assert compute_score("nq", asked, ["ANSWER"], {"split": "train"}, style=style)["score"] == 1.0


@pytest.mark.parametrize(
    ("style", "prompt_says", "asked", "written"),
    [
        *((style, r"\boxed{", r"\boxed{ANSWER}", "ANSWER") for style in PROMPTS),
        *((style, "<answer>", "<answer>", "") for style in PROMPTS),
        *((style, "once only", FINAL, FINAL * 2) for style in PROMPTS),
        *((style, "nothing after", "</answer>", "</answer> That is it.") for style in PROMPTS),
        ("tags", "Close every tag", "</think>\n<search>", "<search>"),
        ("tags", "between <think> and </think>", "think>", "thought>"),
        ("tags", "never write these two tags", "<think>so</think>", "<result>so</result>"),
    ],
)
def test_what_leaves_the_prompt_s_demands_out_is_malformed(
    style: str, prompt_says: str, asked: str, written: str
) -> None:
    response = CALLS[style] + FINAL
    assert prompt_says in " ".join(PROMPTS[style].split()) and asked in response
    assert format_error(response.replace(asked, written), style)


# verl


def test_verl_reads_the_rows(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    run(tmp_path / "out", "--source", str(folder))
    tokenizer = AutoTokenizer.from_pretrained(write_model(tmp_path / "model"))
    length = len(tokenizer.apply_chat_template(build_messages("a b c d?", "tools"), return_dict=False))
    config = OmegaConf.create(
        {
            "cache_dir": str(tmp_path / "verl"),
            "max_prompt_length": length + 10,
            "filter_overlong_prompts": True,
            "filter_overlong_prompts_workers": 1,
        }
    )
    dataset = RLHFDataset(str(tmp_path / "out" / "test.parquet"), tokenizer, config)
    assert len(dataset) == 49
    row = dataset[48]
    assert row["raw_prompt"] == build_messages("popqa test question 9?", "tools")
    assert row["index"] == 48 and "agent_name" not in row and row["data_source"] == "popqa"
    batch = collate_fn([dataset[number] for number in range(4)])
    scores = [
        compute_score(source, FINAL.replace("ANSWER", "Né 0"), reward["ground_truth"], info)["em"]
        for source, reward, info in zip(batch["data_source"], batch["reward_model"], batch["extra_info"], strict=True)
    ]
    assert scores == [1.0, 0.0, 0.0, 0.0]
    assert "Error processing" not in capsys.readouterr().out
