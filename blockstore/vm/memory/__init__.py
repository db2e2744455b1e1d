"""The resident part of VMs: how it is made smaller, eviction, write-back and its failures."""
