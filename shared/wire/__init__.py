"""The wire: generated stubs of proto/isthmus/v1 (never edited; `make proto`) and their way to and from our packets."""
