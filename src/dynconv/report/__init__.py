"""Run directories -> pages, plots and tables."""
