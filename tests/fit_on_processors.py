"""Runs `fit` on a processor that TensorFlow takes for several devices: python -m tests.fit_on_processors COUNT ..."""

import sys

from artifact_remover import fit
from data_prep.quiet import quiet_keras

if __name__ == "__main__":
    count, *arguments = sys.argv[1:]
    with quiet_keras():
        import tensorflow as tf

        from artifact_remover.training import gan
    [processor] = tf.config.list_physical_devices("CPU")
    tf.config.set_visible_devices([], "GPU")
    tf.config.set_logical_device_configuration(processor, int(count) * [tf.config.LogicalDeviceConfiguration()])
    gan.GATE = 10.0  # or networks as small as a test's would never get under it
    sys.exit(fit.main(arguments))
