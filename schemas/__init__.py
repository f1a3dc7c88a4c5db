"""The shared language of server and edge agent. Nothing in here does I/O."""
