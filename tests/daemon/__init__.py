"""Tests of the daemon: on real mounts (marked `mount`), and of its parts without one."""
