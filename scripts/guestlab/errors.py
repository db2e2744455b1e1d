"""The one exception of the guest lab."""


class GuestLabError(Exception):
    """Something the lab needs did not work; the message is one sentence for the person who ran it."""
