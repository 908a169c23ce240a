"""Disk, network, processes, this machine."""
