"""Values on the command line: how they are written, read and refused, and options that several commands have."""
