"""Training methods, one file each: a loss, its hyper-parameters, its RECIPES."""
