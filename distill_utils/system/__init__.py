"""Access the disk, the Hub, processes and the machine."""
