"""The soak: a mount under load whose daemon is killed at random moments, and nobody may notice more than a pause.

loads    the programs that use the mount and check every byte and every name
stalls   how long requests waited
soak     mount, loads, kills, and the verdict
cli      options, and the report
"""
