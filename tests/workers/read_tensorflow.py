"""Read the PixelCNN++ checkpoint in each folder and save it there as read.npz."""

import sys

import numpy as np

from picjax.methods.pixelcnn import official, tf_files

for folder in sys.argv[1:]:
    np.savez(f"{folder}/read.npz", **official.read(tf_files.find([folder]), 1))
