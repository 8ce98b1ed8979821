"""How fast a model answers: images per second, latencies, memory."""
