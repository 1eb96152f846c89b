"""The 56 archives of DeepLesion and other places where slices lie: fetching, verifying, listing, reading."""
