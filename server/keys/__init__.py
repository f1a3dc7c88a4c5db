"""The key authority: it makes the secrets of key domains and packs them for ESAMs."""
