"""The way to the doors: a broker of our own, or a link to another. Neither is trusted."""
