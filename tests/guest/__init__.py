"""Tests with a real QEMU guest (marked `guest`)."""
