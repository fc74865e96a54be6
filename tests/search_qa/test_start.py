"""Where a search server cannot start, or must: disks that are read only or full, ports, scripts without spaces."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.assets.corpora import post, write_corpus
from tests.assets.retriever_process import running_server
from verl_atpo.search_qa.retriever import artifacts
from verl_atpo.search_qa.retriever.artifacts import build_once, noted
from verl_atpo.search_qa.retriever.bm25 import Bm25Index
from verl_atpo.search_qa.retriever.corpus import Corpus
from verl_atpo.search_qa.retriever.settings import Bm25Settings
from verl_atpo.search_qa.retriever.words import has_unspaced_text, words_and_pairs

PASSAGES = {
    "北京": "北京是中华人民共和国的首都，位于华北平原。",  # noqa: RUF001
    "上海": "上海位于长江入海口，是中国最大的城市。",  # noqa: RUF001
    "東京": "東京は日本の首都で、人口が最も多い都市です。",
    "กรุงเทพ": "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
    "llama": "The llama is a domesticated South American camelid.",
}


def written(folder: Path, passages: dict[str, str]) -> Path:
    file = folder / "corpus.jsonl"
    lines = [json.dumps({"contents": f'"{title}"\n{text}'}) for title, text in passages.items()]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("中国的首都是哪里", 0),
        ("长江入海口的城市", 1),
        ("日本の首都", 2),
        ("เมืองหลวงของประเทศไทย", 3),
        ("llama camelid", 4),
    ],
)
def test_scripts_without_spaces_are_found(tmp_path: Path, query: str, first: int) -> None:
    corpus = Corpus(written(tmp_path, PASSAGES), tmp_path / "i")
    (hits,) = Bm25Index(corpus, tmp_path / "i", Bm25Settings()).search([query], 3)
    assert hits[0][0] == first


def test_words_and_pairs() -> None:
    assert words_and_pairs("verl 是中文 x 的 ab") == ["verl", "是中", "中文", "的", "ab"]
    assert has_unspaced_text(list(PASSAGES.values())) and not has_unspaced_text([PASSAGES["llama"]])
    assert not has_unspaced_text(["Beijing (北京) is the capital of China and lies in the north of it. " * 3])
    assert not has_unspaced_text(["", "1234"])


def test_a_corpus_with_spaces_has_the_terms_it_had(tmp_path: Path) -> None:
    corpus = Corpus(written(tmp_path, {"llama": PASSAGES["llama"]}), tmp_path / "i")
    Bm25Index(corpus, tmp_path / "i", Bm25Settings())
    assert "terms" not in json.loads((tmp_path / "i" / "bm25" / artifacts.RECORD).read_text())["made_of"]


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is only read, which a test that runs as root cannot have by permissions."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(artifacts.FileLock, "acquire", refuse)
    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(artifacts.tempfile, "mkdtemp", refuse)


def test_a_ready_index_on_a_disk_that_is_only_read_is_served(tmp_path: Path, monkeypatch, caplog) -> None:
    file = write_corpus(tmp_path)
    Bm25Index(Corpus(file, tmp_path / "i"), tmp_path / "i", Bm25Settings())
    note = tmp_path / "i" / "index.checksum.json"
    noted(file, note)
    read_only(monkeypatch)
    index = Bm25Index(Corpus(file, tmp_path / "i"), tmp_path / "i", Bm25Settings())
    assert index.search(["llama"], 1)[0]
    noted(file, note)
    assert "cannot be written" not in caplog.text
    noted(file, tmp_path / "i" / "other.checksum.json")
    assert "cannot be written" in caplog.text
    with pytest.raises(OSError, match=r"holds no index that can be used.*--index-dir"):
        build_once(tmp_path / "none", {}, lambda folder: None)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_without_permission_too(tmp_path: Path) -> None:
    build_once(tmp_path / "part", {"a": 1}, lambda folder: (folder / "x").write_text("x") and None)
    tmp_path.chmod(0o555)
    assert build_once(tmp_path / "part", {"a": 1}, lambda folder: None)


@pytest.mark.parametrize(
    "error", [OSError("1212930 requested and 296928 written"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_full_disk_is_said_in_words(tmp_path: Path, monkeypatch, error: OSError) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda folder: usage._replace(free=4096))

    def build(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise error

    with pytest.raises(OSError, match=r"The disk of .* is full \(0 MiB were left\).*--index-dir"):
        build_once(tmp_path / "part", {}, build)
    assert os.listdir(tmp_path) == [".part.lock"]


def test_a_bug_of_a_build_is_no_full_disk(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        np.load(folder / "no such file")

    with pytest.raises(FileNotFoundError):
        build_once(tmp_path / "part", {}, build)


def test_a_taken_port_is_exit_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "verl_atpo.search_qa.retriever", "--corpus", str(write_corpus(tmp_path))]
        ended = subprocess.run([*command, "--port", port], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1 and "cannot be served on" in ended.stderr and "--port" in ended.stderr


def test_it_says_where_it_serves_when_it_does(tmp_path: Path) -> None:
    with running_server("--corpus", str(write_corpus(tmp_path))) as server:
        log = server.log()
        assert log.index("Building") < log.index("Uvicorn running on http://127.0.0.1:")
        assert post(server.url, {"queries": ["llama"]})[0] == 200
