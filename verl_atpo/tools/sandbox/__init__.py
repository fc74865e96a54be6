"""Isolation of programs that the model wrote: what the Python tool and workspaces share."""
