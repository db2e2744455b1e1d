"""The control socket: asking, and what the daemon answers."""
