"""Agents that speak chat completions to a base URL, trained through an HTTP endpoint in front of the policy."""
