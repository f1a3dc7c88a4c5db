"""The Ostiary server: keeps what doors signed, and serves it."""
