"""Small guests for demos, tests and benchmarks: what they boot from, how they run, what they do.

`guest.Guest` is a running QEMU, `work` makes it do checkable work, `services` records the memory of Debian
guests. `assets`, `initramfs` and `debian` make what they boot from, once, in a cache.
"""
