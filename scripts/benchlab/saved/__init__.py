"""Memory saved of sets of guests, on the store and on what could stand in its place."""
