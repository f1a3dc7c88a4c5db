"""Thousands of agents in one process: the real protocol over a real broker, doors imagined."""
