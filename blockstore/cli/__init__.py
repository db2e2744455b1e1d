"""The command line. One module a subcommand, loaded only when it is used; `main` has the table of them."""
