"""The rules that a config has to fulfil before anything starts: one table, walked once."""
