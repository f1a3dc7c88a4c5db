"""A small building that runs itself: real processes, virtual doors, cards and people."""
