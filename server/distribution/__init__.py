"""What goes out to the doors, and what comes back of it."""
