"""State directories as earlier versions left them, kept as text. README.md says how they were made."""
