"""The command line. One module a subcommand, loaded only when it is used; `main` has the table of them.

`mounts`, `watch` and `vms` have the subcommands, `types` their arguments, `views` their tables, pages and screens.
"""
