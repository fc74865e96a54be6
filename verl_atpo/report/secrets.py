"""Masking of values whose names look like secrets, in everything that is written down about a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MASK = "[masked]"

_WORDS = (
    r"(?:api|access|secret|private|auth|service|signing|encryption)[_-]?keys?|secrets?|pass(?:word|wd|phrase)s?|pwd"
    r"|credentials?|authorization|bearer|cookies?|(?:[a-z0-9]+[_-])?token"
)
_SECRET = re.compile(rf"(?:.*[._-])?(?:{_WORDS})", re.IGNORECASE)
_VARIABLE = re.compile(r"(?:.*\.)?[A-Z0-9_]*(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PAT)")
_OF_TEXT = re.compile(
    r"(?:.*[._-])?(?:pad|eos|bos|unk|sep|cls|mask|stop|start|end|begin|image|video|audio|vision|special|think|last|first"
    r"|next|per|each|a)[_-]token",
    re.IGNORECASE,
)
"""Names of tokens of a text, which are none of access."""
_NAMED = re.compile(
    r"""(?P<before>(?P<quote>['"]?)(?P<name>[\w.-]+)(?P=quote)\s*[=:]\s*)(?P<value>'[^']*'|"[^"]*"|[^\s,'"{}\[\]]+)"""
)
_IN_URL = re.compile(r"(\b\w{1,20}://[^/\s:@]*):[^/\s@]+@")


def is_secret(name: object) -> bool:
    """Return whether a value under this name is likely a secret.

    Examples:
        >>> [is_secret(name) for name in ("api_key", "env.OPENAI_API_KEY", "hf_token", "db_password")]
        [True, True, True, True]
        >>> [is_secret(name) for name in ("prompt_key", "max_tokens", "pad_token", "tokenizer", "key")]
        [False, False, False, False, False]
    """
    text = str(name)
    if _OF_TEXT.fullmatch(text):
        return False
    return bool(_SECRET.fullmatch(text) or _VARIABLE.fullmatch(text))


def masked(value: Any) -> Any:
    """Copy nested mappings and lists, with the values of secret names masked; other values are returned as they are."""
    if isinstance(value, Mapping):
        return {key: MASK if each and is_secret(key) else masked(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [masked(each) for each in value]
    return masked_text(value) if isinstance(value, str) else value


def masked_text(text: str) -> str:
    """Mask passwords in URLs, and values in ``name=value`` and ``"name": value`` whose name is secret.

    Examples:
        >>> masked_text("+judge={api_key: sk-1, model: m} url=http://me:pw@host/")
        '+judge={api_key: [masked], model: m} url=http://me:[masked]@host/'
    """

    def mask(found: re.Match[str]) -> str:
        return f"{found['before']}{MASK}" if is_secret(found["name"]) else found[0]

    return _NAMED.sub(mask, without_passwords(text))


def without_passwords(text: str) -> str:
    """Mask the passwords in URLs."""
    return _IN_URL.sub(rf"\1:{MASK}@", text)


def masked_command(arguments: Sequence[str]) -> list[str]:
    """Mask secrets in the arguments of a command: ``name=value``, ``--name value`` and ``--name=value``."""
    found: list[str] = []
    follows = False
    for argument in arguments:
        name, is_set, _ = argument.partition("=")
        if follows and not argument.startswith("-"):
            found.append(MASK)
        elif is_set and is_secret(name.lstrip("+~-")):
            found.append(f"{name}={MASK}")
        else:
            found.append(masked_text(argument))
        follows = argument.startswith("--") and not is_set and is_secret(argument.lstrip("-"))
    return found
