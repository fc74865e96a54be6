"""Samples per prompt of each method of the recipes: leaves, tokens and tool calls, computed from the recipes."""
