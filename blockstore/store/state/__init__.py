"""The files of a state: geometry, block rows, maps of files in memory, the pool and its segments."""
