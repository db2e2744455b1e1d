"""Processes that live as long as the mount: the supervisor, the start of daemon and controller, systemd's protocol."""
