"""Look at trees and runs in the browser: ``python -m verl_atpo.view FOLDER`` (extra ``view``).

| file | what it holds |
|---|---|
| ``record.py`` | what one line of a dump holds: the schema that writer and viewer share |
| ``files.py`` | finding dumps and reading single lines of them |
| ``index.py``, ``filters.py`` | a SQLite index: table, filters, full-text search |
| ``text.py``, ``diff.py`` | untrusted text made visible, shortened, compared |
| ``layout.py``, ``drawing.py``, ``colors.py`` | the picture of a tree, as SVG |
| ``export.py`` | one self-contained HTML page, SVG, PNG |
| ``server.py``, ``overview.py``, ``tree_page.py``, ``panel.py``, ``prompt_page.py`` | the pages |
| ``loggers.py`` | the same trees in wandb and TensorBoard |
| ``demo.py``, ``demo_tree.py`` | a made-up run, to look around before there is a real one |

Nothing here imports torch, ray, verl or vllm, so that a laptop shows what a cluster trained.
"""
