"""The viewer of runs and trees in the browser: ``python -m verl_atpo.view FOLDER``.

| file | its subject |
|---|---|
| ``__main__.py``, ``server.py`` | the command, and the server of pages and files |
| ``access.py`` | who may connect, how large a request may be, which scripts a page may run |
| ``page.py`` | the layout of all pages, and the one function that puts markup onto them |
| ``overview.py``, ``health_strip.py``, ``charts.py`` | the overview of a run |
| ``tree_page.py``, ``turn_panel.py``, ``details.py`` | one tree |
| ``prompt_page.py``, ``compare_page.py``, ``validation_page.py`` | one task over time, two runs, validation |
| ``run.py``, ``index.py``, ``filters.py``, ``cache.py`` | a run's folder, and a SQLite index of its dump |
| ``metrics.py``, ``health.py``, ``selections.py``, ``validation.py``, ``run_names.py`` | facts that pages show |
| ``demo.py``, ``demo_tree.py`` | a made-up run |

It needs the schema (``report/record.py``) and the drawings (``render/``), but neither torch nor ray, verl or vllm: a
laptop shows what a cluster trained. ``pyproject.toml`` beside this file installs these rooms alone.
"""
