"""What /proc and /sys say of mounts, processes and memory limits; taking a mount away. Never looks at one."""
