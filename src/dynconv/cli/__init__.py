"""The command `dynconv`: one file per subcommand."""
