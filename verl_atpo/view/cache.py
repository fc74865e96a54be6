"""The folder of indexes: in the user's cache, or a temporary one."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)


def writable(cache: Path) -> Path:
    """Return ``cache``, made if it is missing; where that fails, a temporary folder."""
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        logger.warning("No index can be kept in %s (%s): the next start reads the dump again", cache, error)
    else:
        if os.access(cache, os.W_OK):
            return cache
    return Path(tempfile.mkdtemp(prefix="verl_atpo_view_"))


def default_cache() -> Path:
    """Return ``verl_atpo/view`` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "verl_atpo" / "view"
