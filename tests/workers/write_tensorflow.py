"""Write an .npz's variables as TensorFlow checkpoints of the old and the new format.

Arguments: the .npz, a prefix for the V1 checkpoint, a prefix for the V2 checkpoint.
"""

# pyright: reportMissingImports=false
import sys

import numpy as np
import tensorflow.compat.v1 as tf

tf.disable_eager_execution()
with np.load(sys.argv[1]) as file:
    arrays = {name: file[name] for name in file.files}
variables = {name: tf.get_variable(name, initializer=x) for name, x in arrays.items()}
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for prefix, version in [(sys.argv[2], "V1"), (sys.argv[3], "V2")]:
        version = getattr(tf.train.SaverDef, version)
        tf.train.Saver(variables, write_version=version).save(session, prefix)
