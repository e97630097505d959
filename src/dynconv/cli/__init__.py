"""The command `dynconv`: one file a verb."""
