"""A corpus of three passages, and requests to a server over it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from verl_atpo.search_qa.retriever.settings import Bm25Settings

PASSAGES = [
    '"Llama"\nThe llama is a domesticated South American camelid.',
    '"Alpaca"\nThe alpaca is a camelid kept for its fibre: alpaca wool.',
    '"Zürich"\nZürich is a city; its lake is “Zürichsee”.',
]
PLAIN = Bm25Settings(stemmer=None, stopwords=None)


def write_corpus(folder: Path, passages: list[str] = PASSAGES) -> Path:
    path = folder / "corpus.jsonl"
    rows = [{"id": f"p{place}", "contents": contents} for place, contents in enumerate(passages)]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def post(url: str, body: Any, path: str = "/retrieve", timeout: float = 30.0) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data=data, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        return error.code, json.loads(text) if text.startswith("{") else text
