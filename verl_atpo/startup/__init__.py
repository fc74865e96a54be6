"""Start-up of a run: presets for verl's command line, and checks of its config and data."""
