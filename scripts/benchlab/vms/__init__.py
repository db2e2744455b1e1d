"""Groups of measurements of VMs: clone, fork, the resident part, slowdown, more than the pool holds."""
