"""A simulated site whose keys are rotated: real chips, real agent rules, a bad network."""
