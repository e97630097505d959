"""The web page that classifies images, as far as the server's and the exported one are the same."""
