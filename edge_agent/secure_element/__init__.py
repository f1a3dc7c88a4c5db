"""What holds the secrets of a key domain at the lock."""
