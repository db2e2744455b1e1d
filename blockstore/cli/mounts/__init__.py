"""Subcommands about a mount and its state: mount, umount, set, reload, verify; analyze, which needs no mount."""
