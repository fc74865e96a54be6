"""Measures the retriever: quality (``quality``) and behaviour under the paper's load (``load``)."""
