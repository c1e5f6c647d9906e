"""What the package costs by itself: time, memory, compilation, storage, threads, cards, clusters."""
