"""The resident part of VMs: the controller, eviction, write-back and its failures."""
