"""Runnable examples: python -m drawstream.tools.examples.text."""
