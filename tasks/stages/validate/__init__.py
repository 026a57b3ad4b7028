"""Stage `validate`: hard rules, batch checks and the Great Expectations suite."""
