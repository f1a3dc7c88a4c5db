"""Events from doors: refused or committed, then acknowledged. See docs/server.md."""
