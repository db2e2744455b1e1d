"""The one exception of the bench."""


class BenchError(Exception):
    """A measurement could not be made; the message is one sentence for the person who ran it."""
