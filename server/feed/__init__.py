"""The feed: every committed event, once, in arrival order, to whoever listens."""
