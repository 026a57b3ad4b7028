"""Why the model of a run makes its mistakes, and which training labels to look at."""
