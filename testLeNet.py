"""Train LeNet on MNIST with the recipe of CMU 10-601's homework 7 (spring 2017), sections 4 and 5."""

import argparse
import os
import sys
import time

if __name__ == '__main__':
    # One BLAS thread: conv_net spreads the minibatch over the cores itself, which is faster than BLAS spreading each
    # of its small products. OpenBLAS reads this once, when NumPy is imported.
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

import numpy as np

import cnn_lenet

# The recipe, under the handout's names. The flags of the command line override some of it.
fullset = False          # False: a twentieth of MNIST, True: all of it
batch_size = 64
max_iter = 10000
display_interval = 100
test_interval = 500
snapshot = 5000
seed = 0
mu = 0.9                 # momentum
epsilon = 0.01           # initial learning rate
gamma = 0.0001
power = 0.75
weight_decay = 0.0005
w_lr = 1                 # rate of w: epsilon x 1
b_lr = 2                 # rate of b: epsilon x 2


def get_lenet():
    """LeNet as in Table 2 of the handout: dict, key i is layer i."""
    return {
        1: {'type': 'DATA', 'height': 28, 'width': 28, 'channel': 1, 'batch_size': batch_size},
        2: {'type': 'CONV', 'num': 20, 'k': 5, 'stride': 1, 'pad': 0, 'group': 1},
        3: {'type': 'POOLING', 'k': 2, 'stride': 2, 'pad': 0},
        4: {'type': 'CONV', 'num': 50, 'k': 5, 'stride': 1, 'pad': 0, 'group': 1},
        5: {'type': 'POOLING', 'k': 2, 'stride': 2, 'pad': 0},
        6: {'type': 'IP', 'num': 500, 'init_type': 'uniform'},
        7: {'type': 'RELU'},
        8: {'type': 'LOSS', 'num': 10},
    }
