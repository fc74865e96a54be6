"""The same trees in TensorBoard, read by its own reader, and in wandb, offline."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.assets.untrusted import NASTY
from verl_atpo.report.loggers import as_code, log_trees, outline
from verl_atpo.view.demo import demo_trees

TREES = list(demo_trees(12))


def test_tensorboard_shows_a_picture_and_text(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path))
    log_trees({"tensorboard": SimpleNamespace(writer=writer), "console": None}, TREES, 7, 2)
    writer.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["atpo/tree/0", "atpo/tree/1"]
    (image,) = events.Images("atpo/tree/0")
    assert image.step == 7
    with Image.open(io.BytesIO(image.encoded_image_string)) as picture:
        assert picture.width > 500 and len(picture.convert("RGB").getcolors(1 << 20) or ()) > 20
    (text,) = events.Tensors("atpo/tree/0/text_summary")
    words = text.tensor_proto.string_val[0].decode()
    assert "right answer" in words and all(line.startswith("    ") for line in words.splitlines())


def test_wandb_keeps_a_page_and_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    run = wandb.init(mode="offline", dir=str(tmp_path), project="p", settings=wandb.Settings(silent=True))
    try:
        log_trees({"wandb": wandb}, TREES, 3, 1)
    finally:
        run.finish()
    (page,) = tmp_path.rglob("media/html/**/*.html")
    assert "<svg" in page.read_text() and "<script" not in page.read_text()
    (table,) = tmp_path.rglob("media/table/**/*.json")
    assert "right answer" in table.read_text()


def test_trees_with_different_rewards_come_first(tmp_path: Path) -> None:
    shown: list[tuple[str, int]] = []
    writer = SimpleNamespace(
        add_image=lambda *args, **kwargs: None, flush=lambda: None,
        add_text=lambda tag, text, step: shown.append((text, step)),
    )  # fmt: skip
    equal = next(demo_trees(1, seed=3))
    equal["summary"]["outcome"] = "equal"
    log_trees({"tensorboard": SimpleNamespace(writer=writer)}, [equal, TREES[0]], 5, 1)
    assert shown == [(as_code(outline(TREES[0])), 5)]


def test_a_logger_that_fails_is_no_reason_to_stop(caplog: pytest.LogCaptureFixture) -> None:
    log_trees({"tensorboard": SimpleNamespace(), "mlflow": None}, TREES, 1, 1)
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "step 1" in record.message and "training continues" in record.message
    log_trees({"tensorboard": None}, [], 1, 1)


def test_an_outline_has_a_line_a_turn_and_no_markup() -> None:
    tree = next(demo_trees(1))
    tree["nodes"][0]["text"] = NASTY
    tree["ground_truth"] = NASTY + "\n# heading"
    lines = as_code(outline(tree)).splitlines()
    assert all(line.startswith("    ") for line in lines)
    assert sum(line.lstrip().startswith("- ") for line in lines) == len(tree["nodes"])
