"""Show the trees of a run in the browser, or write one tree to a file.

python -m verl_atpo.view outputs/run                        # live while training runs, offline afterwards
python -m verl_atpo.view outputs/run --export tree.html     # or .svg, .png: the most informative tree, or --tree UID
python -m verl_atpo.view --demo                             # a made-up run
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from verl_atpo.render.colors import ColorBy
from verl_atpo.render.export import SUFFIXES, most_informative, write
from verl_atpo.report.dump_reader import OddLine, dump_files
from verl_atpo.report.record import Record
from verl_atpo.view.access import is_loopback
from verl_atpo.view.filters import Filters
from verl_atpo.view.index import Row, TreeIndex
from verl_atpo.view.run import Run

TRIED = 300
"""Number of trees among which the most informative one is sought: the latest with different rewards."""
REQUIREMENTS = Path(__file__).parent / "requirements.txt"
EMPTY = "no trees in {0} yet: a run writes them with algorithm.atpo.dump_dir={0}; they are shown as they come"
TAKEN = "port {0} of {1} is taken, perhaps by another viewer: --port 0 takes a free one ({2})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``verl-atpo-view``, which is ``python -m verl_atpo.view``."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.demo:
        options.folder = _demo()
    if options.folder is None:
        parser.error("name a run's folder, or look around with --demo")
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is no folder: name that of a run, or its algorithm.atpo.dump_dir")
    if options.export:
        _export(parser, options)
    else:
        _serve(parser, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="verl-atpo-view", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", help="a run's folder, or the dump_dir in it")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; any but a local one needs a token")
    parser.add_argument("--port", type=int, default=8093, help="0 takes a free one")
    parser.add_argument("--token", help="that a visitor has to bring; made up for an address that is not local")
    parser.add_argument("--metrics", type=Path, help="file of verl's logger `file`, if it is not in the folder")
    parser.add_argument("--cache", type=Path, help="folder for the index (default: in the user's cache)")
    parser.add_argument("--no-browser", action="store_true", help="open none")
    parser.add_argument("--export", type=Path, help=f"write one tree instead: {', '.join(SUFFIXES)}")
    parser.add_argument("--tree", help="uid of the tree to export (default: the most informative one)")
    parser.add_argument("--by", choices=[by.value for by in ColorBy], default="advantage", help="colours of an export")
    parser.add_argument("--demo", action="store_true", help="a made-up run")
    return parser


def _demo() -> Path:
    from verl_atpo.view.demo import write_demo

    folder = Path(tempfile.mkdtemp(prefix="verl_atpo_demo_"))
    write_demo(folder)
    return folder


def _export(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.export.suffix not in SUFFIXES:
        parser.error(f"--export {options.export}: expected a name that ends in {', '.join(SUFFIXES)}")
    index = TreeIndex(options.folder, options.cache)
    index.update()
    if options.tree:
        row = index.by_uid(options.tree)
        if row is None:
            parser.error(f"no tree {options.tree} in {options.folder}")
        record = next(iter(_readable(index, [row])), None)
    else:
        rows = index.find(Filters(outcome="mixed"), TRIED) or index.find(Filters(), 1)
        if not rows:
            parser.error(f"no trees in {options.folder}: run with algorithm.atpo.dump_dir={options.folder}")
        trees = _readable(index, rows)
        record = most_informative(trees) if trees else None
    if record is None:
        parser.error(f"no tree in {options.folder} can be read: its lines are invalid")
    write(record, options.export, ColorBy(options.by))


def _readable(index: TreeIndex, rows: Sequence[Row]) -> list[Record]:
    found = []
    for row in rows:
        with contextlib.suppress(OSError, OddLine):
            found.append(index.record(row))
    return found


def _serve(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    try:
        from verl_atpo.view.server import serve
    except ImportError as error:
        parser.exit(1, f"The viewer's own requirements are missing ({error}): pip install -r {REQUIREMENTS}\n")
    token = options.token
    if token is None and not is_loopback(options.host):
        token = secrets.token_urlsafe(16)
    try:
        port = _free_port(options.host, options.port)
    except OSError as error:
        parser.exit(1, TAKEN.format(options.port, options.host, error.strerror or error) + "\n")
    address = f"http://{options.host}:{port}/" + (f"?token={token}" if token else "")
    print(f"Trees of {options.folder}: {address}  (Ctrl+C ends it)", flush=True)
    if not dump_files(options.folder):
        print(EMPTY.format(options.folder), flush=True)
    if "SSH_CONNECTION" in os.environ and is_loopback(options.host):
        print(f"From your own machine: ssh -L {port}:localhost:{port} ... and open the same address there.", flush=True)
    show = not options.no_browser and "SSH_CONNECTION" not in os.environ
    serve(Run(options.folder, options.cache, options.metrics), options.host, port, token, show)


def _free_port(host: str, port: int) -> int:
    """Find a port to listen at: ``port``, or a free one for 0.

    Raises:
        OSError: it is taken, or ``host`` is none of this machine's addresses.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main(sys.argv[1:])
