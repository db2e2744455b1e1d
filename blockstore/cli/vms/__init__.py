"""Subcommands about VMs: run, attach, evict, fork, and their snapshots and disks."""
