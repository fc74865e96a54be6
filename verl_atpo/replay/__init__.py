"""One run of an agent loop: its requests and their answers, replayed up to a turn and live from there."""
