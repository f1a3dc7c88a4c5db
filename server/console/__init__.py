"""The live page: static files that speak the public API and nothing else."""
