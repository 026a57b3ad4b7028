"""Pretrained networks and their frozen features."""
