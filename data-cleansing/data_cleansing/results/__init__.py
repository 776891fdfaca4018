"""What a run leaves: files, tables, figures, the report."""
