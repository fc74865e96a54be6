"""The gateway under load: what a call costs beside the engine, and what is lost when agents are killed."""
