"""The whole picture of a mount, its history, and metrics for Prometheus."""
