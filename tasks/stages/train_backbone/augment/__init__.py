"""Random changes of training images: geometry, colour, policies, mixing, resolution."""
