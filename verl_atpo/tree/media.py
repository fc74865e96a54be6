"""Digests of the images, videos and audio in a context, of which token ids show only the placeholders."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

KINDS = ("image_data", "video_data", "audio_data")
"""Arguments of ``LLMServerClient.generate``; each is a list of items, one item, or ``None``."""

ROW_KINDS = {"image_data": "images", "audio_data": "audios"}
"""Those of a row that are compared with what the engine saw, by the argument that they were."""


def has_media(arguments: Mapping[str, Any]) -> bool:
    """Return whether a request to the engine has images, videos or audio."""
    return any(arguments.get(kind) is not None for kind in KINDS)


def media_digests(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Digest every image, video and audio of a request, in order; equal data has equal digests."""
    found = []
    for kind in KINDS:
        items = arguments.get(kind)
        if items is not None:
            found += [f"{kind}:{_digest(item)}" for item in (items if isinstance(items, list) else [items])]
    return tuple(found)


def media_difference(asked: Sequence[str], row: Mapping[str, Any] | None) -> str | None:
    """Describe where the pictures or sounds of a row differ from those that the engine saw; ``None`` if they do not.

    A row may have more than its last turn saw. Videos are not compared: engines get them in another form.

    Args:
        asked: digests of the last turn's request.
        row: ``multi_modal_data`` of verl's ``AgentLoopOutput``.
    """
    for kind, name in ROW_KINDS.items():
        seen = [digest for digest in asked if digest.startswith(f"{kind}:")]
        given = media_digests({kind: (row or {}).get(name)}) if seen else ()
        if len(given) < len(seen):
            return f"multi_modal_data has {len(given)} {name}, the engine saw {len(seen)}"
        for number, (one, other) in enumerate(zip(seen, given, strict=False)):
            if one != other:
                return f"number {number} of multi_modal_data[{name!r}] is not the one that the engine saw"
    return None


def _digest(item: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    _feed(digest, item)
    return digest.hexdigest()


def _feed(digest: Any, item: Any) -> None:
    """Hash an item's type and data; of containers their items, each with its length before it."""
    digest.update(f"{type(item).__module__}.{type(item).__qualname__}\0".encode())
    if isinstance(item, bytes | bytearray | memoryview):
        digest.update(item)
    elif isinstance(item, str):
        digest.update(item.encode(errors="surrogatepass"))
    elif isinstance(item, Mapping):
        for key in sorted(item, key=repr):
            _feed(digest, [key, item[key]])
    elif isinstance(item, Sequence):
        digest.update(f"{len(item)}\0".encode())
        for each in item:
            _feed(digest, each)
    else:
        for part in _data(item):
            digest.update(part)


def _data(item: Any) -> tuple[bytes, ...]:
    """Return the data of a picture, an array or a tensor, with its shape and kind; anything else as its pickle."""
    if hasattr(item, "detach"):  # torch.Tensor; numpy knows no bfloat16
        import torch

        plain = item.detach().cpu().contiguous()
        return f"{tuple(plain.shape)}{plain.dtype}".encode(), plain.view(-1).view(torch.uint8).numpy().tobytes()
    if hasattr(item, "tobytes"):
        about = [getattr(item, name, None) for name in ("size", "shape", "mode", "dtype")]
        return repr(about).encode(), item.tobytes()
    try:
        return (pickle.dumps(item),)
    except Exception:
        return (repr(item).encode(),)
