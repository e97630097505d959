"""The sections of the page about a run, one module each; see dynconv.report.section."""
