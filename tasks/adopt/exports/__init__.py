"""Exports of other tools: what a folder says about the model in it."""
