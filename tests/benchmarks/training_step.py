"""The share of the machine's speed that a training step of the generator reaches, and the costs of its parts.

python -m tests.benchmarks.training_step --preset div2k

The yardstick is a plain 3x3 convolution of the generator's width, in the same precision, process and minute. The
backward pass is what a loss with its gradients costs more than the loss alone, the optimizer what the whole step costs
more than both. The batch is ready in memory; `data_pipeline` measures what making it costs.
"""

import argparse
import json
import math
import statistics
import time

from artifact_remover.config import PRESETS
from data_prep.quiet import quiet_tensorflow

with quiet_tensorflow():
    import keras
    import tensorflow as tf

from artifact_remover.generator import build_generator
from artifact_remover.precision import choose_dtype
from artifact_remover.training.gan import GeneratorPretraining
from artifact_remover.training.loop import make_optimizer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    config, dtype = PRESETS[options.preset], choose_dtype(options.precision)
    shape = [config.data.batch_size, config.data.patch_size, config.data.patch_size, 3]
    *passes, step, step_flops = training_step(config, shape, dtype)
    convolution, convolution_flops = _plain_convolution(config, shape, dtype)
    # In turns, so that a machine that changes its speed changes both.
    rounds = [[time_calls(call) for call in (*passes, step, convolution)] for _ in range(options.rounds)]
    forward, gradients, step_seconds, convolution_seconds = (statistics.median(s) for s in zip(*rounds, strict=True))
    reached, possible = step_flops / step_seconds / 1e12, convolution_flops / convolution_seconds / 1e12
    print(
        json.dumps(
            {
                "benchmark": "training_step",
                "preset": options.preset,
                "dtype": dtype,
                "step_seconds": round(step_seconds, 4),
                "patches_per_second": round(shape[0] / step_seconds, 1),
                "forward": round(forward / step_seconds, 2),
                "backward": round((gradients - forward) / step_seconds, 2),
                "optimizer": round(1 - gradients / step_seconds, 2),
                "step_tflops": round(reached, 3),
                "plain_convolution_tflops": round(possible, 3),
                "share": round(reached / possible, 2),
            }
        )
    )


def training_step(config, shape, dtype):
    """Returns functions that compute the loss, that with its gradients, and take a whole step; and the step's FLOPs."""
    generator = build_generator(config.generator, dtype)
    trainer = GeneratorPretraining(generator, config.generator_loss, distance=None)
    trainer.compile(optimizer=make_optimizer(config.pretrain_generator))
    trainer.optimizer.build(generator.trainable_variables)
    batch = tf.random.uniform(shape), tf.random.uniform(shape)
    convolutions = [layer for layer in generator.layers if isinstance(layer, keras.layers.Conv2D)]
    outputs = keras.Model(generator.input, [layer.output for layer in convolutions])(batch[0])
    products = sum(
        math.prod(layer.kernel.shape) * math.prod(output.shape[:3])
        for layer, output in zip(convolutions, outputs, strict=True)
    )

    def loss():
        return trainer.objective(batch[1], generator(batch[0], training=True), step=0)["loss"]

    def gradients():
        with tf.GradientTape() as tape:
            value = loss()
        return tape.gradient(value, generator.trainable_variables)

    calls = (tf.function(call) for call in (loss, gradients, lambda: trainer.train_step(batch)))
    # A multiplication and an addition for each; once forward, twice backward.
    return *calls, 3 * 2 * products


def _plain_convolution(config, shape, dtype, repeats=20):
    width, scale = config.generator.features, config.generator.scale
    compute = tf.bfloat16 if dtype == "mixed_bfloat16" else tf.float32
    start = tf.cast(tf.random.uniform([shape[0], shape[1] // scale, shape[2] // scale, width]), compute)
    kernels = [tf.cast(tf.random.normal([3, 3, width, width], stddev=0.05), compute) for _ in range(repeats)]

    @tf.function
    def run():
        x = start
        for kernel in kernels:
            x = tf.nn.conv2d(x, kernel, 1, "SAME")
        return tf.reduce_sum(x)

    positions = start.shape[0] * start.shape[1] * start.shape[2]
    return lambda: run().numpy(), repeats * 2 * 9 * width * width * positions


def time_calls(function, calls=3):
    function()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


if __name__ == "__main__":
    main()
