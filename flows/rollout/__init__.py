"""A challenger answers unseen, or part of the traffic, before it goes live."""
