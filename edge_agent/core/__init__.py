"""What the agent decides, without any input or output, clock or randomness of its own."""
