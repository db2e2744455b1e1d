"""The controller: which VMs are attached, and what is done about the resident part of each."""
