"""What a study found: statistics, tables, figures, the page. No torch here."""
