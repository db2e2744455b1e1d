"""A VM as its user sees it: the console, the agent in the guest, and how it ends."""
