"""The tree in the README: the kept one fits a page and is drawn with its question."""

from __future__ import annotations

import copy
import json
from xml.etree import ElementTree

from benchmarks.lab.picture import KEPT, PICTURE, fits
from verl_atpo.render.export import to_svg

TREE = json.loads(KEPT.read_text(encoding="utf-8"))


def test_the_kept_tree_fits_and_deeper_or_uniform_ones_do_not() -> None:
    assert fits(TREE)
    deeper, uniform = copy.deepcopy(TREE), copy.deepcopy(TREE)
    deeper["nodes"][-1]["turn"] = 4
    for node in uniform["nodes"]:
        node["reward"] = 1.0 if node["is_leaf"] else None
    assert not fits(deeper) and not fits(uniform)


def test_its_picture_is_readable_and_says_what_was_asked() -> None:
    drawn = ElementTree.fromstring(to_svg(TREE))
    texts = list(drawn.iter("{http://www.w3.org/2000/svg}text"))
    assert [text.text for text in texts[:2]] == [
        "What is the museum of the birthplace of Glopi Krodair?",
        "Right answer: Drihul Truglos",
    ]
    assert min(float(text.get("font-size", 0)) for text in texts) * 900 / float(drawn.get("width", 0)) >= 12
    assert PICTURE.read_bytes().startswith(b"\x89PNG")
