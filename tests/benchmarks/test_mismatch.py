"""Decoding against a forward pass, on a tiny model."""

from __future__ import annotations

import json

from benchmarks.mismatch import main
from tests.assets.tiny_model import write_model


def test_float32_agrees_and_bfloat16_does_less(tmp_path, capsys):
    model = write_model(tmp_path / "model")
    main([str(model), "--samples", "6", "--tokens", "8", "--out", str(tmp_path / "out.json")])
    types = json.loads((tmp_path / "out.json").read_text())["types"]
    assert types["float32"]["turn_mean"] < 1e-5 and types["float32"]["turns_beyond_clip"] == 0
    assert types["bfloat16"]["token_mean"] > 10 * types["float32"]["token_mean"]
    assert "bfloat16" in capsys.readouterr().out
