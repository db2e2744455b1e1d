"""Snapshots of VMs: taking them, the file format, the disks' overlays, and moving them to other hosts."""
