"""How work is shared out: threads, clusters, reading ahead."""
