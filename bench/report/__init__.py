"""What every bench shares: sections and targets, metrics by kind, curves, cached measurements, tables, plots."""
