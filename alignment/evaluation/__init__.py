"""How a model is judged: benchmarks produce predictions, metrics turn stored predictions into numbers."""
