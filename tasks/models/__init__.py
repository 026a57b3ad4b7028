"""What Evergreen trains: the stage-1 network, the stage-2 head, probes on frozen features."""
