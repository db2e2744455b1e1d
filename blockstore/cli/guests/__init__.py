"""Commands for one VM that runs in the background: its console, its commands, its end."""
