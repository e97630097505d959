"""The report to hand in: runs -> one document -> PDF, Markdown, LaTeX or a notebook."""
