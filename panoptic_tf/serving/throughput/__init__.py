"""Speed of a model: images per second, latencies, memory."""
