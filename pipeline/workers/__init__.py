"""Workers that do tasks: this process, spawned processes, or a Ray cluster."""
