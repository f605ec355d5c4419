"""Floor 5: composition. Settings and the user's modules become a graph, adapters and a runtime."""
