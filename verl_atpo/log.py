"""The package's own logger, so that no library's changes to the root logger hide its warnings.

verl, Hydra, Ray and vLLM all configure the root logger, and one of vLLM's dependencies sets it and its handlers to
ERROR during the first generation. Hence ``verl_atpo`` has its own handler and level and does not propagate.
"""

from __future__ import annotations

import logging
import os

NAME = "verl_atpo"
LEVEL = "VERL_ATPO_LOGGING_LEVEL"
"""Environment variable that sets the level; INFO by default."""


def own_logger() -> logging.Logger:
    """Set up the logger of this process; may be called again."""
    logger = logging.getLogger(NAME)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(os.environ.get(LEVEL, "INFO").upper())
    return logger
