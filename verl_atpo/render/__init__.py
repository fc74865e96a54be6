"""Drawings and texts of a dumped tree: SVG, self-contained HTML, PNG, and blocks of escaped markup.

The viewer shows them, and the training run's loggers. Everything is a function of a record (``report/record.py``) that
somebody else may have made, so nothing of it is trusted: texts are made visible, markup is escaped.
"""
