"""State that several servers share, in a table of SQLite or PostgreSQL: tokens, and which camera runs which bundle."""
