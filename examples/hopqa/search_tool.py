"""The `search` tool of verl's agent loop; verl loads this file by its path.

Setting: `actor_rollout_ref.rollout.multi_turn.function_tool_path=examples/hopqa/search_tool.py`.
The corpus is `corpus.jsonl` in the folder named by the environment variable `HOPQA_DIR`
(default: `outputs/hopqa` in the repository).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]
if str(_REPOSITORY) not in sys.path:  # verl's workers need not have been started in the repository
    sys.path.insert(0, str(_REPOSITORY))

from verl.tools.function_tool import function_tool  # noqa: E402

from examples.hopqa.retrieval import SearchIndex  # noqa: E402


def _load_index() -> SearchIndex:
    folder = Path(os.environ.get("HOPQA_DIR") or _REPOSITORY / "outputs" / "hopqa")
    corpus = folder / "corpus.jsonl"
    if not corpus.is_file():
        raise FileNotFoundError(
            f"got no corpus at {corpus}; run `python -m examples.hopqa.prepare --out DIR` and set HOPQA_DIR=DIR"
        )
    return SearchIndex.load(corpus)


_INDEX = _load_index()


@function_tool
def search(query: str) -> str:
    """Returns the passage that fits a query best.

    Args:
        query: Name of an entity and what to know about it.
    """
    return _INDEX.search(query)
