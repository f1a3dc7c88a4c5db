"""Stand-ins for cards and doors that speak the real protocols."""
