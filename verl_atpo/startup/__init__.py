"""Before the first prompt: presets for verl's command line, and checks of its config and data."""
