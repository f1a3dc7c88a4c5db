"""What the server keeps: the exact lines doors signed, and little else."""
