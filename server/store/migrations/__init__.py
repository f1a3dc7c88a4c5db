"""Schema history, applied by `server.store.database.open_database`."""
