"""The daemon: a mount whose files are volumes of the store.

serve opens what is stored, serves it at a mount and closes it; session is that time: threads, tasks, handover. Each
sub-package says in its first line what is in it: `fuse` and `lane` for the data of files, `namespace` for their names,
`tiers` and background for what goes on meanwhile, `control` for those who ask, `supervise`, process, handover and
options for what outlives one daemon, `state` and `host` for what is around it.
"""
