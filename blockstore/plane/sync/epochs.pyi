"""Epochs: when memory may go that a thread may still look at without the store lock.

A thread that looks enters, and leaves when it is done. What is retired meanwhile may go once all who were inside then
have left (epoch-based reclamation; K. Fraser, "Practical lock-freedom", 2004, section 5.2.3). A thread that is
overtaken on its way in looks like one that has been there for longer.

A thread first says that it is inside and then looks for what it reads; who retires something first makes it impossible
to find and then looks who is inside. With a full fence between the two on either side, one of them sees the other.
"""

class Epochs:
    """Of one store. A thread is inside once at most, and waits for nothing there."""

    def __init__(self) -> None: ...
    def enter(self) -> int:
        """Enters. Returns the slot with which the thread leaves."""

    def leave(self, slot: int) -> None:
        """Leaves. Raises ValueError for a slot with which no thread has entered."""

    def retire(self) -> int:
        """Returns the epoch of something that nothing can find any more; with the store lock."""

    def is_over(self, epoch: int) -> bool:
        """Returns whether no thread can still look at what was retired in this epoch; with the store lock."""
