"""One branch of any agent loop: what it asked and was told, replayed up to a turn and live from there."""
