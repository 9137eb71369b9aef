"""What every bench writes with: sections, targets, curves, tables, plots."""
