"""Models: representations, references, scores, networks, and how they are trained and stored."""
