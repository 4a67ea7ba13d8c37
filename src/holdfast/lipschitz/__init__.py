"""l2 Lipschitz layers and sound bounds of their norms."""
