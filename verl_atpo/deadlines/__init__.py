"""Bounds on foreign code, tools, agent loops and rewards, that hold whatever it raises, swallows or never returns."""
