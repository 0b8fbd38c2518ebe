"""Searches that find samplers: spaces, agents and the outer loop."""
