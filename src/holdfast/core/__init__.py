"""The nouns of the library: what a certificate, a threat, a certifier, a method and a recipe are. No torch in here."""
