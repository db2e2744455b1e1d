"""What the store would save on memory images that exist already."""
