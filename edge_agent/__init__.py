"""The Ostiary edge agent: decides at the door."""
