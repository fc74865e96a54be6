"""Ordinary mistakes of a first run, and how soon and in which words the start-up notices them."""
