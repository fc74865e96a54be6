"""Every family of models is exact on packs, or refused by name; and models that lie about themselves are caught."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import Qwen3Config
from transformers.models.qwen3 import modeling_qwen3

from tests.assets.families import FAMILIES, judge, make_model, packed_results, tiny_config
from tests.assets.packed_rows import random_trees
from verl_atpo.packed.attention import NAME
from verl_atpo.packed.delta import run_over_tries
from verl_atpo.packed.head import score_through_own_head
from verl_atpo.packed.models import check_model
from verl_atpo.packed.probe import probe
from verl_atpo.settings import ConfigError

RESULT = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "packed_families.json").read_text())
TABLE = {row["family"]: row for row in RESULT["rows"]}


@pytest.mark.parametrize("name", FAMILIES)
def test_exact_or_refused_as_the_table_in_the_docs_says(name):
    kind, more = FAMILIES[name]
    found = judge(kind, more)
    assert found["verdict"] == TABLE[name]["verdict"] != "wrong", found
    if transformers.__version__ == RESULT["settings"]["transformers"]:  # others name kinds of layers otherwise
        assert found.get("reason") == TABLE[name].get("reason")


@pytest.mark.parametrize("name", [name for name, line in TABLE.items() if line["verdict"] == "refused"])
def test_what_is_refused_is_refused_by_its_configuration_alone(name):
    kind, more = FAMILIES[name]
    with pytest.raises(ConfigError, match=rf"the model {kind}.*leave out \+train=packed"):
        check_model(tiny_config(kind, more))


def packable(config):
    model = make_model(config, NAME).eval()
    run_over_tries(model)
    score_through_own_head(model)
    return model


def run_probe(model):
    with torch.no_grad():
        probe(model, model, torch.float32, torch.device("cpu"))


def test_a_layer_that_lets_neighbours_meet_is_caught_by_the_probe(monkeypatch):
    config = tiny_config("qwen3", {})
    run_probe(packable(config))  # as it is, it passes
    plain = modeling_qwen3.Qwen3MLP.forward

    def forward(self, x):  # tokens hear of the one before them in place, which no argument shows
        return plain(self, x + 0.5 * x.roll(1, 1))

    monkeypatch.setattr(modeling_qwen3.Qwen3MLP, "forward", forward)
    with pytest.raises(ConfigError, match="differ from those of the rows run apart"):
        run_probe(packable(config))


def test_a_layer_with_a_window_that_its_configuration_hides_is_caught():
    config = tiny_config("qwen3", {})
    model = packable(config)
    model.model.layers[1].self_attn.sliding_window = 7
    with pytest.raises(ConfigError, match="2 of 3 layers with full attention, 1 of 0 layers with a window"):
        run_probe(model)


def test_a_layer_that_attends_by_itself_is_caught(monkeypatch):
    model = packable(tiny_config("qwen3", {}))
    attention = model.model.layers[2].self_attn
    monkeypatch.setattr(attention, "forward", lambda hidden_states, **more: (hidden_states, None))
    with pytest.raises(ConfigError, match="2 of 3 layers with full attention use transformers' interfaces"):
        run_probe(model)


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_rope_that_depends_on_the_longest_position_is_refused_wherever_it_is_named(rope):
    for parameters in ({"rope_type": rope}, {"full_attention": {"rope_type": rope}}, {"type": rope}):
        config = Qwen3Config()
        config.rope_parameters = parameters
        with pytest.raises(ConfigError, match=rf"{rope}\) depends on the longest position"):
            check_model(config)


def test_rows_with_positions_of_several_equal_kinds_are_taken_and_images_refused():
    from verl.utils import tensordict_utils as tu

    from tests.assets.packed_rows import batch_of
    from verl_atpo.packed.rows import pack_inputs

    rows = random_trees(0, groups=1, rows=3)
    data = batch_of(rows, [0, 1, 2], 0)
    lengths = [len(row) for row in rows.whole()]
    kinds = [torch.arange(length).expand(4, length) for length in lengths]
    data["position_ids"] = torch.nested.as_nested_tensor(kinds, layout=torch.jagged)
    plain = pack_inputs(batch_of(rows, [0, 1, 2], 0), torch.device("cpu"))
    pack = pack_inputs(data, torch.device("cpu"))
    assert np.array_equal(pack.input_ids, plain.input_ids) and np.array_equal(pack.position_ids, plain.position_ids)
    kinds[1] = kinds[1].clone()
    kinds[1][2, 1] = 5  # an image's rows and columns
    data["position_ids"] = torch.nested.as_nested_tensor(kinds, layout=torch.jagged)
    with pytest.raises(ValueError, match=r"position_ids are not 0, 1, 2"):
        pack_inputs(data, torch.device("cpu"))
    images = batch_of(rows, [0, 1, 2], 0)
    tu.assign_non_tensor(images, multi_modal_inputs=[{"pixel_values": torch.zeros(1)}, {}, {}])
    with pytest.raises(ValueError, match=r"images, video or audio \(pixel_values\) cannot be packed"):
        pack_inputs(images, torch.device("cpu"))


def test_gradients_reach_every_parameter_of_the_text_model():
    found = packed_results(tiny_config("qwen3_5_text", FAMILIES["Qwen3.5, text"][1]), random_trees(0))
    gradients = {name for name in found if name.startswith("gradient")}
    assert any("conv1d" in name for name in gradients) and any("A_log" in name for name in gradients)
