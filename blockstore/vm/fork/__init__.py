"""New VMs that go on from a snapshot: fork, restore, and undoing both."""
