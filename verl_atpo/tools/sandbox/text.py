"""Text of a program that runs inside the sandbox, where the package is not."""

from __future__ import annotations

from pathlib import Path

from verl_atpo.tools.sandbox import inside

_IMPORTED = f"from {inside.__name__} import "


def with_inside(program: str) -> str:
    """Put the text of ``inside.py`` in the place of a program's import of it, which stands on a line of its own.

    Raises:
        ValueError: there is no such line.
    """
    lines = program.replace("from __future__ import annotations\n", "", 1).splitlines(keepends=True)
    imports = [number for number, line in enumerate(lines) if line.startswith(_IMPORTED) and "(" not in line]
    if len(imports) != 1:
        raise ValueError(f"the program has {len(imports)} lines that begin with {_IMPORTED!r}: expected one")
    del lines[imports[0]]
    return Path(inside.__file__).read_text() + "".join(lines)
