"""A door's strike, contact and exit button: one port, and an adapter for each kind of wiring."""
