"""Several threads that use the module at once get what each would get alone."""

import concurrent.futures
import threading

import numpy as np
from helpers import assert_same, network_and_batch

from cnn_lenet import conv_net, predict

CALLERS, CALLS = 8, 12


def test_eight_threads_at_once_find_the_digits_of_one():
    params, layers, data, labels = network_and_batch('lenet in small', 96)      # three blocks of columns
    many = np.tile(data, 6)                                                     # three for predict, too

    def digits(threads):
        return conv_net(params, layers, data, labels, threads), predict(params, layers, many, threads)

    alone = digits(1)
    together = threading.Barrier(CALLERS)

    def caller(number):
        together.wait(60)
        return [digits([None, 2, 3, 1][(number + call) % 4]) for call in range(CALLS)]

    with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
        for found in pool.map(caller, range(CALLERS)):
            for one in found:
                assert_same(one, alone)
