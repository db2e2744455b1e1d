"""QEMU: its command line, its sockets and QMP, qcow2, and a VM that `run` starts."""
