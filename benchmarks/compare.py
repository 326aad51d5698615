"""This project against PyTorch on the CPU: the same LeNet, the same minibatches, in turn, round by round.

    python benchmarks/compare.py                 the table
    python benchmarks/compare.py --rounds 7      more rounds

Every measurement is made in a process of its own, which has all cores to itself. A ratio compares this project with
one of PyTorch's two memory layouts in the same round; absolute times vary from hour to hour, ratios much less.

OpenBLAS chooses its kernels by the processor unless the environment pins them (OPENBLAS_CORETYPE). Where it does, the
project is measured both ways, because PyTorch takes no notice of that variable.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BATCH = 64
ITERATIONS = 150
SCORING_BATCHES = (100, 1000, 10000)    # PyTorch's speed depends on how the test images are cut up

# The floor: multiplications and additions in the matrix products of one training iteration (three products per layer,
# two for the first convolution, whose input needs no gradient) and of scoring one image.
FORWARD_FLOP = [2 * 24 * 24 * 25 * 20, 2 * 8 * 8 * 500 * 50, 2 * 800 * 500, 2 * 500 * 9]
ITERATION_FLOP = BATCH * (3 * sum(FORWARD_FLOP) - FORWARD_FLOP[0])
SCORING_FLOP = 10000 * sum(FORWARD_FLOP)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=5, help='how often every program is measured (default: 5)')
    parser.add_argument('--worker', choices=['project', 'torch-nchw', 'torch-channels-last', 'sgemm'],
                        help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        print(json.dumps(WORKERS[flags.worker]()))
    else:
        compare(flags.rounds)


# ---------------------------------------------------------------------------------------------------------------
# What is measured, each in a process of its own
# ---------------------------------------------------------------------------------------------------------------


def measure_project():
    """One BLAS thread, as testLeNet.py sets it: conv_net spreads the columns over the cores."""
    import numpy as np

    from cnn_lenet import conv_net, init_convnet, load_mnist, predict, sgd_momentum
    from testLeNet import get_lenet

    xtrain, ytrain, *_, xtest, _ = load_mnist(True, np.float32, np.random.RandomState(0))
    layers = get_lenet()
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
    """LeNet as PyTorch's users commonly write it: eager, float32, torch.optim.SGD."""
    import numpy as np
    import torch
    from torch import nn

    from cnn_lenet import load_mnist

    xtrain, ytrain, *_, xtest, _ = load_mnist(True, np.float32, np.random.RandomState(0))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
                        nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = net.to(memory_format=layout)
    images, test = (torch.from_numpy(np.ascontiguousarray(x.T)).reshape(-1, 1, 28, 28).to(memory_format=layout)
                    for x in (xtrain, xtest))
    labels = torch.from_numpy(ytrain)
    groups = [{'params': [p for name, p in net.named_parameters() if 'weight' in name], 'weight_decay': 0.0005},
              {'params': [p for name, p in net.named_parameters() if 'bias' in name], 'lr': 0.02}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    loss = nn.CrossEntropyLoss()

    def iteration(index):
        index = torch.from_numpy(index)
        optimizer.zero_grad()
        loss(net(images[index]), labels[index]).backward()
        optimizer.step()

    def score(batch):
        with torch.inference_mode():
            return torch.cat([net(test[first:first + batch]).softmax(dim=1) for first in range(0, len(test), batch)])

    return timings(iteration, np.random.RandomState(1).permutation(len(ytrain)),
                   {str(batch): lambda batch=batch: score(batch) for batch in SCORING_BATCHES})


def timings(iteration, order, scorings):
    """Median time of a training iteration, best of three of each scoring, and the process's peak memory."""
    seconds = []
    for i in range(20 + ITERATIONS):
        index = order[i * BATCH:(i + 1) * BATCH]
        began = time.perf_counter()
        iteration(index)
        seconds.append(time.perf_counter() - began)
    scoring = {}
    for name, score in scorings.items():
        runs = []
        for _ in range(4):
            began = time.perf_counter()
            score()
            runs.append(time.perf_counter() - began)
        scoring[name] = statistics.median(runs[1:])
    return {'iteration': statistics.median(seconds[20:]), 'scoring': scoring,
            'memory': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def measure_sgemm():
    """The machine's rate in large float32 products with all cores, in GFLOP/s."""
    import numpy as np

    size = 2048
    a, b = (np.random.RandomState(i).rand(size, size).astype(np.float32) for i in (0, 1))
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - began)
    return 2 * size ** 3 / min(seconds) / 1e9


WORKERS = {'project': measure_project, 'torch-nchw': lambda: measure_torch(False),
           'torch-channels-last': lambda: measure_torch(True), 'sgemm': measure_sgemm}


# ---------------------------------------------------------------------------------------------------------------
# The comparison
# ---------------------------------------------------------------------------------------------------------------


def programs():
    """(title, worker, environment) of all that is compared."""
    pinned = {name: value for name, value in os.environ.items() if name.startswith('OPENBLAS_')}
    result = [('PyTorch, NCHW', 'torch-nchw', {}), ('PyTorch, channels_last', 'torch-channels-last', {})]
    own = {name: None for name in pinned}
    if 'OPENBLAS_CORETYPE' in pinned:
        title = f"this project, OPENBLAS_CORETYPE={pinned['OPENBLAS_CORETYPE']}"
        result += [(title, 'project', {'OPENBLAS_NUM_THREADS': '1'})]
    return [*result, ('this project', 'project', {**own, 'OPENBLAS_NUM_THREADS': '1'})]


def in_own_process(worker, changes):
    """Run a worker with changes to the environment (None removes a variable). Returns what it prints."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    for name, value in changes.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    process = subprocess.run([sys.executable, __file__, '--worker', worker], env=environment, text=True,
                             stdout=subprocess.PIPE)
    if process.returncode:
        sys.exit(f'{worker} failed; is PyTorch installed (pip install -r benchmarks/requirements.txt)?')
    return json.loads(process.stdout)


def compare(rounds):
    results = {title: [] for title, *_ in programs()}
    sgemm = {title: [] for title, worker, _ in programs() if worker == 'project'}
    for number in range(rounds):
        for title, worker, changes in programs():
            results[title].append(in_own_process(worker, changes))
            if worker == 'project':
                sgemm[title].append(in_own_process('sgemm', {**changes, 'OPENBLAS_NUM_THREADS': None}))
        print(f'round {number + 1} of {rounds} done', file=sys.stderr)

    print(f"{'':44} {'iteration':>10} {'10,000 test images':>19} {'peak memory':>12}")
    for title, runs in results.items():
        fastest = statistics.median(min(run['scoring'].values()) for run in runs)
        print(f"{title:44} {median(runs, 'iteration') * 1e3:7.2f} ms {fastest:17.3f} s "
              f"{median(runs, 'memory'):9.0f} MB")
    torch_runs = results['PyTorch, channels_last']
    print('\nPyTorch, channels_last, scores the test images in batches of '
          + ', '.join(f'{batch}: {statistics.median(run["scoring"][str(batch)] for run in torch_runs):.3f} s'
                      for batch in SCORING_BATCHES))

    for title, rates in sgemm.items():
        rate, runs = statistics.median(rates), results[title]
        print(f'\n{title}: large products at {rate:.0f} GFLOP/s; the floor of products alone is')
        for name, flop, seconds in (('an iteration', ITERATION_FLOP, median(runs, 'iteration')),
                                    ('scoring', SCORING_FLOP, statistics.median(r['scoring']['all'] for r in runs))):
            floor = flop / rate / 1e9
            print(f'    {name:14}{floor * 1e3:8.2f} ms, and it takes {seconds / floor:.2f} times that')
        print_ratios(runs, results)


def median(runs, name):
    return statistics.median(run[name] for run in runs)


def print_ratios(runs, results):
    nchw, channels_last = results['PyTorch, NCHW'], results['PyTorch, channels_last']
    comparisons = [
        ('iteration / NCHW', [a['iteration'] / b['iteration'] for a, b in zip(runs, nchw)]),
        ('iteration / channels_last', [a['iteration'] / b['iteration'] for a, b in zip(runs, channels_last)])]
    comparisons += [(f'scoring / channels_last, batches of {batch}',
                     [a['scoring']['all'] / b['scoring'][str(batch)] for a, b in zip(runs, channels_last)])
                    for batch in SCORING_BATCHES]
    for name, ratios in comparisons:
        print(f"    {name:42} {statistics.median(ratios):.2f}   ({min(ratios):.2f} to {max(ratios):.2f}; "
              f"rounds {' '.join(f'{ratio:.2f}' for ratio in ratios)})")


if __name__ == '__main__':
    main()
