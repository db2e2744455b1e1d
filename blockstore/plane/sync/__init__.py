"""What threads share safely: atomic stores, locks, epochs, and memory that never moves."""
