"""Settings of a study, and the students that it trains."""
