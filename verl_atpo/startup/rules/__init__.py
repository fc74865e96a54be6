"""Rules that a config has to fulfil before anything starts, in one table."""
