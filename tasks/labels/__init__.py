"""What people say about labels: annotations, and the effective label that they decide."""
