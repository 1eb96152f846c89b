"""lesionpipe: from DeepLesion's archives to a FROC curve, after the MICCAI 2019 paper on an improved RetinaNet."""
