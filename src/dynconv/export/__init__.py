"""A trained network as a file for other runtimes, or on the Hugging Face Hub."""
