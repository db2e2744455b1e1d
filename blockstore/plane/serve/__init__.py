"""What answers the kernel: lanes, encoders, and the queue of writes between them."""
