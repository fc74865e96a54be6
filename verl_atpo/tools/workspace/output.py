"""Beginning and end of an output that may be long."""

from __future__ import annotations


class Excerpt:
    """Keeps so many bytes of what is written to it, from the beginning and from the end.

    Args:
        size: most bytes to keep.

    Attributes:
        written: bytes that were written.
    """

    def __init__(self, size: int) -> None:
        self._half = size // 2
        self._size = size
        self._head, self._tail = bytearray(), bytearray()
        self.written = 0

    def write(self, data: bytes) -> None:
        """Add ``data``."""
        self.written += len(data)
        room = self._size - self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    def bytes(self) -> bytes:
        """Return all if it is short enough, else both ends with a note of how much is left out between them."""
        tail = self._tail[-self._half :] if self._half else b""
        left_out = self.written - len(self._head) - len(tail)
        if not left_out:
            return bytes(self._head + tail)
        return bytes(self._head) + f"\n[{left_out} bytes left out]\n".encode() + bytes(tail)
