"""Where cards appear: one port, and an adapter for each kind of reader."""
