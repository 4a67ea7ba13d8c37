"""A package of one's own: a threat model, a noise, a sampling certifier and a method, one file each."""
