"""The file itself beside its peers: fio, zram, nbdkit and others, KSM and swap, and what they need."""
