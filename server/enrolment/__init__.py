"""How devices become agents, stay agents, and cease to be."""
