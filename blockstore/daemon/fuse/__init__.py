"""The FUSE protocol and its device: requests as bytes, messages to the kernel, the way to and from pyfuse3."""
