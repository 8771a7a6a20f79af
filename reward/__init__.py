"""How good is a response: reward models, ranking losses, rule scorers and their quality."""
