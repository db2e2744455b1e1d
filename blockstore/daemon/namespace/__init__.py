"""The names and attributes of files, in SQLite, and what pyfuse3 asks of them."""
