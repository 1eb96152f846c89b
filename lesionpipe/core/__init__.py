"""General building blocks that know nothing of lesions; most of them change no result."""
