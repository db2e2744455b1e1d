"""Virtual machines on a mount, seen from outside: what of them is resident, and making it leave."""
