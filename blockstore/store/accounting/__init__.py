"""The census of what is stored, and the report and comparison made of it."""
