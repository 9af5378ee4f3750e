"""A study and what is stored of it: definition, trials in Optuna, results as files."""
