"""The scheme ``a2tgpo`` (A²TGPO, arXiv 2605.06200): credit of turns by their information about the gold answer."""

from __future__ import annotations

from verl_atpo.schemes.a2tgpo.scheme import A2TGPO as A2TGPO
