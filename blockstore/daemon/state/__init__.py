"""State directories: where they are made, checking them, their loss, and deleting them."""
