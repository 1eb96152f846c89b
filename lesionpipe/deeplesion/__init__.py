"""DeepLesion as it lies on disk: annotations, archives, slices, the three-slice stack, the store, the phantom."""
