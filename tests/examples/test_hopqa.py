"""The quickstart's world, tool, reward and chat format."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from verl.experimental.agent_loop.tool_parser import ToolParser
from verl.tools import function_tool
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from examples.hopqa.chat import ChatCodec, FinalTurn, ToolCall, build_tokenizer
from examples.hopqa.demos import CARELESS, Demonstrator, Habits
from examples.hopqa.lexicon import Lexicon, make_lexicon
from examples.hopqa.questions import HOPS, Question, read_questions, sample_questions, write_rows
from examples.hopqa.retrieval import NOTHING_FOUND, SearchIndex
from examples.hopqa.schema import RELATION_NAMES, RELATIONS
from examples.hopqa.world import World, make_split_worlds
from examples.kit.answer_reward import compute_score

SEARCH_TOOL = Path(__file__).parents[2] / "examples" / "hopqa" / "search_tool.py"
PERFECT = Habits(wrong_relation=0.0, half_name=0.0, hasty={}, overrun=0.0)


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return make_lexicon(0)


@pytest.fixture(scope="module")
def worlds(lexicon: Lexicon) -> tuple[World, World]:
    return make_split_worlds(lexicon, 0)


@pytest.fixture(scope="module")
def codec(lexicon: Lexicon) -> ChatCodec:
    return ChatCodec(build_tokenizer(lexicon))


@pytest.fixture(scope="module")
def index(worlds: tuple[World, World]) -> SearchIndex:
    return SearchIndex((e.name, e.passage()) for world in worlds for e in world.entities.values())


# the world


def test_a_seed_gives_one_world_and_another_seed_another() -> None:
    first, again, other = (make_split_worlds(make_lexicon(seed), seed) for seed in (3, 3, 4))
    assert first == again
    assert not set(first[0].entities) & set(other[0].entities)


def test_no_word_is_used_twice(lexicon: Lexicon) -> None:
    words = [word.lower() for word in (*lexicon.all_words(), *RELATION_NAMES)]
    assert len(words) == len(set(words))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_train_and_held_out_worlds_name_no_common_entity(seed: int) -> None:
    named = []
    for world in make_split_worlds(make_lexicon(seed), seed):
        values = {value for entity in world.entities.values() for value in entity.facts.values()}
        assert values <= set(world.entities)
        named.append(set(world.entities))
    assert not named[0] & named[1]


def test_every_fact_leads_to_the_kind_its_relation_says(worlds: tuple[World, World]) -> None:
    for world in worlds:
        for entity in world.entities.values():
            assert set(entity.facts) == set(RELATIONS[entity.kind])
            assert entity.name not in entity.facts.values()
            for relation, value in entity.facts.items():
                assert world.entities[value].kind is RELATIONS[entity.kind][relation]


def test_too_large_a_world_is_refused(lexicon: Lexicon) -> None:
    with pytest.raises(ValueError, match="smaller world"):
        lexicon.draw_names(33 * 33, frozenset(), random.Random(0))


# questions


def test_questions_follow_the_facts(worlds: tuple[World, World]) -> None:
    for question in sample_questions(worlds[0], 20, random.Random(0)):
        names = [question.path[0]]
        for relation in question.relations:
            names.append(worlds[0].follow(names[-1], relation))
        assert tuple(names) == question.path
        assert len(set(names)) == question.hops + 1


def test_question_text_names_the_last_relation_first() -> None:
    question = Question(("author", "birthplace"), ("Amber Gate", "Maro Velin", "Old Bran"))
    assert question.text == "What is the birthplace of the author of Amber Gate?"
    assert (question.hops, question.answer) == (2, "Old Bran")


def test_rows_are_what_verl_reads(worlds: tuple[World, World], tmp_path: Path) -> None:
    questions = sample_questions(worlds[1], 3, random.Random(0))
    write_rows(questions, "val", tmp_path / "val.parquet")
    frame = pd.read_parquet(tmp_path / "val.parquet")
    assert sorted(frame["data_source"]) == [f"hopqa_{hops}hop" for hops in HOPS for _ in range(3)]
    row = frame.iloc[0]
    assert list(row["prompt"]) == [{"role": "user", "content": questions[0].text}]
    assert row["reward_model"] == {"style": "rule", "ground_truth": questions[0].answer}
    assert row["extra_info"]["hops"] == questions[0].hops
    assert read_questions(tmp_path / "val.parquet") == questions


# retrieval and the tool


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_full_name_finds_its_own_passage(seed: int) -> None:
    entities = [e for world in make_split_worlds(make_lexicon(seed), seed) for e in world.entities.values()]
    index = SearchIndex((e.name, e.passage()) for e in entities)
    missed = [e.name for e in entities if index.search(e.name) != e.passage()]
    assert missed == []


@pytest.mark.parametrize("query", ["", "   ", "?!", "zzz qqq"])
def test_a_query_without_known_words_finds_nothing(index: SearchIndex, query: str) -> None:
    assert index.search(query) == NOTHING_FOUND


def test_an_empty_corpus_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 passages"):
        SearchIndex([])


def test_questions_are_answered_through_verls_tool(
    worlds: tuple[World, World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(function_tool, "FUNCTION_TOOL_REGISTRY", {})
    monkeypatch.setattr(function_tool, "_LOADED_FUNCTION_TOOL_PATHS", {})
    monkeypatch.setenv("HOPQA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="HOPQA_DIR"):
        function_tool.load_function_tools_from_path(str(SEARCH_TOOL))
    entities = [e for world in worlds for e in world.entities.values()]
    lines = [json.dumps({"title": e.name, "text": e.passage()}) for e in entities]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tool,) = function_tool.load_function_tools_from_path(str(SEARCH_TOOL))
    assert tool.name == "search"
    assert tool.tool_schema.function.parameters.required == ["query"]
    for question in sample_questions(worlds[1], 5, random.Random(0)):
        name = question.path[0]
        for relation in question.relations:
            passage = asyncio.run(tool.call({"query": name}))
            name = " ".join(passage.split(f" {relation} ")[1].split()[:2]).rstrip(".;")
        assert name == question.answer


# the reward

OBSERVATION = "<tool_response> {} </tool_response>\n assistant\n"


@pytest.mark.parametrize(
    ("response", "score", "answered"),
    [
        ("<answer> Old Bran</answer>", 1.0, 1.0),
        ("<answer>old  BRAN.</answer>", 1.0, 1.0),
        ("<answer> New Bran</answer>", 0.0, 1.0),
        ("<answer></answer>", 0.0, 1.0),
        ("Old Bran", 0.0, 0.0),
        ("<answer> Old Bran", 0.0, 0.0),
        ("<answer> New Bran</answer><answer> Old Bran</answer>", 0.0, 0.0),
        (OBSERVATION.format("x") + "city Old Bran<answer> Old Bran</answer>", 1.0, 1.0),
        (OBSERVATION.format("<answer> Old Bran</answer>"), 0.0, 0.0),
        (OBSERVATION.format("<answer> Old Bran</answer>") + "<answer> New Bran</answer>", 0.0, 1.0),
        ("<answer> Old Bran</answer>" + OBSERVATION.format("x"), 0.0, 0.0),
        ("<tool_response> cut off <answer> Old Bran</answer>", 0.0, 0.0),
        ('<tool_call>{"name": "search"}</tool_call><answer> Old Bran</answer>', 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_only_the_final_answer_is_scored(response: str, score: float, answered: float) -> None:
    result = compute_score("hopqa_1hop", response, "Old Bran", {"index": 0}, something_else=1)
    assert result == {"score": score, "acc": score, "answered": answered}


# tokenizer and chat format


def test_a_name_has_the_same_two_tokens_everywhere(codec: ChatCodec, worlds: tuple[World, World]) -> None:
    for name in worlds[1].entities:
        ids = codec.encode(name)
        assert len(ids) == 2
        question = Question(("mayor",), (name, "x"))
        places = [
            codec.prompt(question.text),
            codec.call("", name),
            codec.answer("", name),
            list(codec.observation(f"{name} (city). mayor {name}; museum {name}.")),
        ]
        for place in places:
            assert any(place[i : i + 2] == ids for i in range(len(place)))


def test_any_text_comes_back(codec: ChatCodec) -> None:
    text = ' Error: {"köln": "東京"}\n  unknown <tag> 42'
    assert codec.decode(codec.encode(text)) == text


def test_turns_parse_back(codec: ChatCodec) -> None:
    call = codec.call("mayor Maro Velin", "Maro Velin")
    assert codec.parse(call) == ToolCall("Maro Velin")
    assert codec.parse(codec.answer("mayor Maro Velin", "Maro Velin")) == FinalTurn("Maro Velin")
    assert codec.parse(call[:-2]) == FinalTurn(None)
    assert codec.parse(codec.encode("<tool_call>{broken</tool_call>")) == FinalTurn(None)


def test_verls_hermes_parser_reads_a_call(codec: ChatCodec) -> None:
    parser = ToolParser.get_tool_parser("hermes", codec.tokenizer)
    _, calls = asyncio.run(parser.extract_tool_calls(codec.call("mayor Maro Velin", "Maro Velin")))
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("search", {"query": "Maro Velin"})]
    _, none = asyncio.run(parser.extract_tool_calls(codec.answer("", "Maro Velin")))
    assert none == []


def _messages(question: str, passage: str) -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": "search", "arguments": {"query": "Maro Velin"}}}
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "mayor Maro Velin", "tool_calls": [call]},
        {"role": "tool", "content": passage},
    ]


def test_codec_and_chat_template_and_verls_builder_agree(codec: ChatCodec) -> None:
    """Prompt k+1 is prompt k, then the sampled turn, then the observation: token for token."""
    builder = create_continuous_token_builder(codec.tokenizer, hf_model_type="qwen3")
    question, passage = "What is the mayor of Old Bran?", "Old Bran (city). mayor Maro Velin."
    messages, tools = _messages(question, passage), [{"type": "function", "function": {"name": "search"}}]
    prompt = builder.build_initial_tokens(messages[:1], tools=tools)
    assert prompt == codec.prompt(question)
    sampled = codec.call("mayor Maro Velin", "Maro Velin")
    merged = builder.merge_assistant_tokens(prompt, sampled).token_ids
    following = builder.merge_context_tokens(messages[:2], messages, merged, tools=tools).token_ids
    assert following == [*prompt, *sampled, *codec.observation(passage)]
    whole = codec.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert whole == following


# demonstrations


def _demonstrate(world: World, codec: ChatCodec, habits: Habits, per_hop: int) -> list[tuple[Question, list[int], str]]:
    demonstrator = Demonstrator(world, codec, habits, random.Random(0))
    result = []
    for question in sample_questions(world, per_hop, random.Random(0)):
        demo = demonstrator.demonstrate(question)
        start = demo.sampled.index(True)
        assert list(demo.ids[:start]) == codec.prompt(question.text)
        response = list(demo.ids[start:])
        result.append((question, response, codec.decode(response, skip_special_tokens=True)))
    return result


def test_a_careful_demonstrator_is_always_right_and_short(worlds: tuple[World, World], codec: ChatCodec) -> None:
    for question, response, text in _demonstrate(worlds[1], codec, PERFECT, 5):
        assert compute_score("hopqa", text, question.answer)["score"] == 1.0
        assert text.count("<tool_call>") == question.hops
        assert len(codec.prompt(question.text)) <= 64
        assert len(response) <= 192


def test_the_careless_one_is_right_sometimes(worlds: tuple[World, World], codec: ChatCodec) -> None:
    demos = _demonstrate(worlds[0], codec, CARELESS, 50)
    scores = [compute_score("hopqa", text, question.answer)["score"] for question, _, text in demos]
    assert 0.2 < sum(scores) / len(scores) < 0.45
    assert CARELESS.hasty[2] > 0.5
