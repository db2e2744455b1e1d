"""Subcommands that show a mount: status, top, report."""
