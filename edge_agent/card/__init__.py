"""Talking with a card: scripts that yield commands and receive answers, without any I/O."""
