"""This project against PyTorch on the CPU: the same LeNet, the same minibatches, in turn, round by round.

    python benchmarks/compare.py                    the tables on one core and on all
    python benchmarks/compare.py --cores 2          the table on two cores, to which both are bound
    python benchmarks/compare.py --python PATH      this project under another Python, such as a free-threaded one
    python benchmarks/compare.py --python PATH --python PATH2 --rounds 5

PyTorch always runs under the Python that runs this file. First of all the two must agree: cost and all gradients of
LeNet, in float64.

Every measurement is made in a process of its own. A ratio compares this project with one of PyTorch's two memory
layouts in the same round: absolute times vary from hour to hour, ratios much less. OpenBLAS chooses its kernels by the
processor here, even if the environment pins them (OPENBLAS_CORETYPE), of which PyTorch takes no notice.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BATCH = 64
WARM_UP, ITERATIONS, SCORINGS = 20, 120, 2
SCORING_BATCHES = (100, 1000)           # images at a time in PyTorch; NCHW is fastest with the first

# The floor: multiplications and additions in the matrix products of one training iteration (three products per layer,
# two for the first convolution, whose input needs no gradient) and of scoring one image.
FORWARD_FLOP = [2 * 24 * 24 * 25 * 20, 2 * 8 * 8 * 500 * 50, 2 * 800 * 500, 2 * 500 * 9]
ITERATION_FLOP = BATCH * (3 * sum(FORWARD_FLOP) - FORWARD_FLOP[0])


def main():
    cores = available_cores()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=3, help='how often every program is measured (default: 3)')
    parser.add_argument('--cores', type=int, choices=range(1, len(cores) + 1), metavar=f'1..{len(cores)}',
                        help='bind both to so many cores, Linux only (default: a table for one core, and one for all)')
    parser.add_argument('--python', action='append', metavar='PATH',
                        help='run this project under this Python (default: the one that runs this file)')
    parser.add_argument('--worker', choices=WORKERS, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        if flags.cores:
            os.sched_setaffinity(0, cores[:flags.cores])         # before NumPy and PyTorch count them
        print(json.dumps(WORKERS[flags.worker]()))
    else:
        in_own_process(sys.executable, 'agreement', None)
        print('cost and all gradients of LeNet agree with PyTorch (float64)')
        for number in [flags.cores] if flags.cores else sorted({1, len(cores)}):
            compare(flags.rounds, number, flags.python or [sys.executable])


def available_cores():
    """The numbers of the cores that we may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else list(range(os.cpu_count()))


# ---------------------------------------------------------------------------------------------------------------
# What is measured, each in a process of its own
# ---------------------------------------------------------------------------------------------------------------


def check_agreement():
    """Raise AssertionError unless cost and all gradients of LeNet agree with PyTorch's, in float64."""
    import numpy as np
    import torch

    from cnn_lenet import conv_net, init_convnet
    from testLeNet import get_lenet

    rng = np.random.RandomState(0)
    layers = get_lenet()
    params = init_convnet(layers, np.float64, rng)
    data, labels = rng.rand(784, BATCH), rng.randint(10, size=BATCH)
    cp, param_grad = conv_net(params, layers, data, labels)

    net = torch_lenet().double()
    with torch.no_grad():
        for theirs, ours in zip(net.parameters(), in_torch_order(params)):
            theirs.zero_()
            theirs[:len(ours)] = torch.from_numpy(ours)         # the last of 10 logits is always 0 here
    cost = torch.nn.CrossEntropyLoss()(net(torch.from_numpy(data.T.reshape(-1, 1, 28, 28))), torch.from_numpy(labels))
    cost.backward()
    np.testing.assert_allclose(cp['cost'], cost.item(), rtol=1e-12)
    for theirs, ours in zip(net.parameters(), in_torch_order(param_grad)):
        theirs = theirs.grad.numpy()[:len(ours)]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11 * abs(theirs).max())


def in_torch_order(params):
    """The parameters of LeNet, or their gradients, in the order and the shapes of `torch_lenet().parameters()`."""
    conv1, conv2, inner_product, loss = (params[i] for i in (1, 3, 5, 7))
    return [conv1['w'].reshape(5, 5, 1, 20).transpose(3, 2, 0, 1), conv1['b'],
            conv2['w'].reshape(5, 5, 20, 50).transpose(3, 2, 0, 1), conv2['b'],
            inner_product['w'].reshape(4, 4, 50, 500).transpose(3, 2, 0, 1).reshape(500, 800), inner_product['b'],
            loss['w'].T, loss['b']]


def torch_lenet():
    """LeNet as PyTorch's users commonly write it."""
    from torch import nn

    return nn.Sequential(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))


def measure_project():
    """The module as the training script uses it."""
    import testLeNet  # which sets up BLAS, and so comes before NumPy
    layers = testLeNet.get_lenet()

    import numpy as np

    from cnn_lenet import conv_net, init_convnet, load_mnist, predict, sgd_momentum

    xtrain, ytrain, *_, xtest, _ = load_mnist(True, np.float32, np.random.RandomState(0))
    state = {'params': init_convnet(layers, np.float32, np.random.RandomState(0))}
    state['winc'] = {i: {key: np.zeros_like(value) for key, value in param.items()}
                     for i, param in state['params'].items()}

    def iteration(index):
        _, param_grad = conv_net(state['params'], layers, xtrain[:, index], ytrain[index])
        state['params'], state['winc'] = sgd_momentum(0.01, 0.02, 0.9, 0.0005, state['params'], state['winc'],
                                                      param_grad)

    return timings(iteration, np.random.RandomState(1).permutation(len(ytrain)),
                   {'all': lambda: predict(state['params'], layers, xtest)})


def measure_torch(channels_last):
    """The same in PyTorch: eager, float32, torch.optim.SGD."""
    import numpy as np
    import torch

    from cnn_lenet import load_mnist

    xtrain, ytrain, *_, xtest, _ = load_mnist(True, np.float32, np.random.RandomState(0))
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = torch_lenet().to(memory_format=layout)
    images, test = (torch.from_numpy(np.ascontiguousarray(x.T)).reshape(-1, 1, 28, 28).to(memory_format=layout)
                    for x in (xtrain, xtest))
    labels = torch.from_numpy(ytrain)
    groups = [{'params': [p for name, p in net.named_parameters() if 'weight' in name], 'weight_decay': 0.0005},
              {'params': [p for name, p in net.named_parameters() if 'bias' in name], 'lr': 0.02}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    loss = torch.nn.CrossEntropyLoss()

    def iteration(index):
        index = torch.from_numpy(index)
        optimizer.zero_grad()
        loss(net(images[index]), labels[index]).backward()
        optimizer.step()

    def score(batch):
        with torch.inference_mode():
            return torch.cat([net(test[first:first + batch]).softmax(dim=1) for first in range(0, len(test), batch)])

    return timings(iteration, np.random.RandomState(1).permutation(len(ytrain)),
                   {str(batch): lambda batch=batch: score(batch) for batch in SCORING_BATCHES[:1 + channels_last]})


def timings(iteration, order, scorings):
    """Median seconds of a training iteration and of each scoring after a warm-up, peak memory in MB, and the Python."""
    seconds = [took(iteration, order[i * BATCH:(i + 1) * BATCH]) for i in range(WARM_UP + ITERATIONS)]
    locked = getattr(sys, '_is_gil_enabled', lambda: True)()
    return {'iteration': statistics.median(seconds[WARM_UP:]),
            'scoring': {name: statistics.median([took(score) for _ in range(1 + SCORINGS)][1:])
                        for name, score in scorings.items()},
            'memory': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            'python': f"Python {platform.python_version()}{'' if locked else ', free-threaded'}"}


def took(function, *arguments):
    """Seconds that a call takes."""
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def measure_sgemm():
    """The machine's rate in large float32 products with all of these cores, in GFLOP/s."""
    import numpy as np

    size = 2048
    a, b = (np.random.RandomState(i).rand(size, size).astype(np.float32) for i in (0, 1))
    return 2 * size ** 3 / min(took(np.matmul, a, b) for _ in range(6)) / 1e9


WORKERS = {'agreement': check_agreement, 'project': measure_project, 'torch-nchw': lambda: measure_torch(False),
           'torch-channels-last': lambda: measure_torch(True), 'sgemm': measure_sgemm}


# ---------------------------------------------------------------------------------------------------------------
# The comparison
# ---------------------------------------------------------------------------------------------------------------


def compare(rounds, cores, pythons):
    """Print the table on so many cores, with this project under each of these Pythons."""
    nchw, channels_last, ours = [], [], {python: [] for python in pythons}
    for number in range(rounds):
        nchw.append(in_own_process(sys.executable, 'torch-nchw', cores))
        channels_last.append(in_own_process(sys.executable, 'torch-channels-last', cores))
        for python in pythons:
            ours[python].append(in_own_process(python, 'project', cores))
        print(f'round {number + 1} of {rounds} on {cores} done', file=sys.stderr)
    rate = in_own_process(pythons[0], 'sgemm', cores)

    print(f"\n{processor()}, {cores} core{'s' * (cores > 1)}; large products at {rate:.0f} GFLOP/s, at which those of "
          f'an iteration take {ITERATION_FLOP / rate / 1e6:.1f} ms')
    print(f"{'':44} {'iteration':>10} {'10,000 test images':>34} {'peak memory':>12}")
    print_row('PyTorch, NCHW', nchw)
    print_row('PyTorch, channels_last', channels_last)
    for runs in ours.values():
        print_row(f"this project, {runs[0]['python']}", runs)
    for runs in ours.values():
        print(f"\n{runs[0]['python']}: this project's time / PyTorch's")
        for name, theirs in (('NCHW', nchw), ('channels_last', channels_last)):
            print_ratios(f'iteration / {name}', [a['iteration'] / b['iteration'] for a, b in zip(runs, theirs)])
        for batch in map(str, SCORING_BATCHES):
            print_ratios(f'scoring / channels_last, batches of {batch}',
                         [a['scoring']['all'] / b['scoring'][batch] for a, b in zip(runs, channels_last)])


def in_own_process(python, worker, cores):
    """Run a worker under this Python, bound to so many cores (None: to all). Returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith('OPENBLAS_')}
    environment['PYTHONPATH'] = str(ROOT)
    bound = ['--cores', str(cores)] if cores and cores < len(available_cores()) else []
    try:
        process = subprocess.run([python, __file__, '--worker', worker, *bound], env=environment, text=True,
                                 stdout=subprocess.PIPE)
    except OSError as error:
        sys.exit(f'--python {python}: {error.strerror}; expected a Python that has requirements.txt')
    if process.returncode:
        sys.exit(f'{worker} failed, as said above (PyTorch comes with pip install -r benchmarks/requirements.txt)')
    return json.loads(process.stdout)


def processor():
    """The processor's name."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), platform.processor())


def print_row(title, runs):
    """Medians of a program; of the ways to cut up the test images, the fastest."""
    scoring = {name: statistics.median(run['scoring'][name] for run in runs) for name in runs[0]['scoring']}
    fastest = min(scoring, key=scoring.get)
    batches = '' if fastest == 'all' else f' in batches of {fastest}'
    iteration, memory = (statistics.median(run[name] for run in runs) for name in ('iteration', 'memory'))
    print(f'{title:44} {iteration * 1e3:7.2f} ms {scoring[fastest]:12.3f} s{batches:20} {memory:9.0f} MB')


def print_ratios(name, ratios):
    print(f"    {name:42} {statistics.median(ratios):.2f}   (rounds {' '.join(f'{ratio:.2f}' for ratio in ratios)})")


if __name__ == '__main__':
    main()
