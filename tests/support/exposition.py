"""What GET /metrics says, as numbers."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Numbers:
    """Series of one exposition, by their names and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.series: Series = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the series of that name that have these labels; 0 if there are none."""
        wanted = set(labels.items())
        return sum(value for (own, given), value in self.series.items() if own == name and wanted <= given)

    def labels(self, name: str, label: str) -> set[str]:
        """The values that a label of these series has."""
        return {dict(given)[label] for (own, given) in self.series if own == name}
