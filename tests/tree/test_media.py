"""Digests of images, videos and audio: equal data is equal, anything else is not; contexts tell screens apart."""

from __future__ import annotations

import io
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from verl.experimental.agent_loop import AgentLoopOutput
from verl.workers.rollout.replica import TokenOutput

from verl_atpo.config import Contexts
from verl_atpo.failure import RowMismatchError
from verl_atpo.tree.comparison import check_chain_rows, check_tree_rows
from verl_atpo.tree.contexts import group_contexts
from verl_atpo.tree.media import has_media, media_digests
from verl_atpo.tree.recording import Generation, Turn
from verl_atpo.tree.tree import ROOT, TurnTree


def encoded(color: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2), color).save(file, "PNG")
    return file.getvalue()


DIFFERENT = {
    "red": lambda: Image.new("RGB", (2, 2), "red"),
    "blue": lambda: Image.new("RGB", (2, 2), "blue"),
    "wide": lambda: Image.new("RGB", (4, 1), "red"),
    "gray": lambda: Image.new("L", (2, 2), 76),
    "array": lambda: np.zeros((2, 2), np.uint8),
    "array of another shape": lambda: np.zeros((4, 1), np.uint8),
    "array of another type": lambda: np.zeros((2, 2), np.int8),
    "tensor": lambda: torch.zeros(2, 2),
    "tensor of another kind": lambda: torch.zeros(2, 2, dtype=torch.bfloat16),
    "tensor of ones": lambda: torch.ones(2, 2),
    "view of a tensor": lambda: torch.eye(4)[::2, ::2],
    "video": lambda: (torch.zeros(2, 3, 2, 2), {"fps": 1.0}),
    "video at another speed": lambda: (torch.zeros(2, 3, 2, 2), {"fps": 2.0}),
    "audio": lambda: (np.zeros(8, np.float32), 16000),
    "audio at another rate": lambda: (np.zeros(8, np.float32), 8000),
    "url": lambda: "https://example.org/a.png",
    "bytes": lambda: encoded("red"),
    "other bytes": lambda: encoded("blue"),
    "mapping": lambda: {"url": "a", "detail": "low"},
    "nothing": lambda: None,
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_equal_data_has_equal_digests(name):
    make = DIFFERENT[name]
    assert media_digests({"image_data": [make()]}) == media_digests({"image_data": [make()]})


def test_different_data_has_different_digests():
    digests = {name: media_digests({"image_data": [make()]}) for name, make in DIFFERENT.items()}
    for one, other in itertools.combinations(digests, 2):
        assert digests[one] != digests[other], (one, other)


def test_a_request_is_digested_in_order_and_by_kind():
    red, blue = DIFFERENT["red"](), DIFFERENT["blue"]()
    both = media_digests({"image_data": [red, blue], "sampling_params": {}})
    assert len(both) == 2 and both != media_digests({"image_data": [blue, red]})
    assert media_digests({"image_data": red}) == both[:1]
    assert media_digests({"audio_data": [red]}) != both[:1]
    assert media_digests({"image_data": None, "video_data": []}) == ()
    assert has_media({"image_data": [red]}) and not has_media({"image_data": None, "mm_processor_kwargs": {}})


def test_what_cannot_be_digested_by_its_data_is_digested_by_its_words():
    class Handle:
        def __reduce__(self):
            raise TypeError("cannot be pickled")

        def __repr__(self) -> str:
            return "handle 7"

    assert media_digests({"image_data": [Handle()]}) == media_digests({"image_data": [Handle()]})


RED, BLUE = DIFFERENT["red"](), DIFFERENT["blue"]()
SOUND = np.zeros(8, np.float32)
ROWS = {
    "the same": ({"images": [DIFFERENT["red"]()]}, None),
    "more than the last turn saw": ({"images": [RED, BLUE]}, None),
    "none": (None, "has 0 images, the engine saw 1"),
    "none of this kind": ({"videos": [RED]}, "has 0 images, the engine saw 1"),
    "another": ({"images": [BLUE]}, r"number 0 of multi_modal_data\['images'\] is not the one"),
    "in another order": ({"images": [BLUE, RED]}, "number 0 of"),
    "another size": ({"images": [DIFFERENT["wide"]()]}, "number 0 of"),
}


def with_pictures(*pictures: object) -> list[Generation]:
    """A record of one turn that was sampled with these pictures and a sound."""
    media = media_digests({"image_data": list(pictures), "audio_data": [SOUND]})
    return [Generation(0, [1, 2], TokenOutput(token_ids=[11, 12], log_probs=[-0.5, -0.5]), media=media)]


def picture_row(media: dict | None) -> AgentLoopOutput:
    return AgentLoopOutput(
        prompt_ids=[1, 2], response_ids=[11, 12], response_mask=[1, 1], metrics={}, multi_modal_data=media
    )


@pytest.mark.parametrize("check", [check_tree_rows, check_chain_rows])
@pytest.mark.parametrize(("media", "words"), ROWS.values(), ids=ROWS)
def test_a_row_has_the_pictures_that_the_engine_saw(check, media, words):
    media = media and {**media, "audios": [SOUND.copy()]}
    if words is None:
        assert check(with_pictures(RED), [picture_row(media)]) == [(0, 0)]
        return
    with pytest.raises(RowMismatchError, match=f"not what was sampled: .*{words}.*Remedy: return what was given"):
        check(with_pictures(RED), [picture_row(media)])


def test_a_row_has_the_sounds_that_the_engine_heard():
    with pytest.raises(RowMismatchError, match="has 0 audios, the engine saw 1"):
        check_chain_rows(with_pictures(), [picture_row({"images": [RED]})])
    assert check_chain_rows(with_pictures(), [picture_row({"audios": [SOUND]})]) == [(0, 0)]


def tree_of_screens(*screens: tuple[tuple[str, ...], tuple[str, ...]]) -> TurnTree:
    """Chains of two turns with equal tokens everywhere, and these pictures in the context of each turn."""
    tree = TurnTree()
    for first, second in screens:
        node = ROOT
        for media, leaf in ((first, False), (second, True)):
            output = SimpleNamespace(token_ids=[7])
            turn = Turn((Generation(0, [1], output, media=media),))
            reward = 1.0 if leaf else None
            node = tree.add_turn(node, mean_nll=1.0, is_leaf=leaf, reward=reward, turn=turn).index
    return tree


def test_contexts_with_other_pictures_are_others():
    tree = tree_of_screens((("a",), ("a", "b")), (("a",), ("a", "b")), (("a",), ("a", "c")), (("d",), ("d", "b")))
    merged = group_contexts(tree, Contexts.MERGED).context
    first, second = merged[1::2], merged[2::2]
    assert first[0] == first[1] == first[2] != first[3]
    assert second[0] == second[1] and len(set(second)) == 3
    states = group_contexts(tree, Contexts.STATES).context
    assert states[2] == states[4] == states[8] != states[6]  # b was added, whatever was there before


def test_a_loop_that_shows_the_latest_screen_only_has_states_too():
    tree = tree_of_screens((("a",), ("b",)), (("c",), ("b",)), (("a",), ("c",)))
    states = group_contexts(tree, Contexts.STATES).context
    assert states[2] == states[4] != states[6]
