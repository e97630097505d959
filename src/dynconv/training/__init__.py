"""config -> run directory."""
