"""Static int8 quantisation of a bundle's model, measured as any other model."""
