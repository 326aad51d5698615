"""This project against PyTorch on the CPU: the same LeNet, the same minibatches, in turn, round by round.

    python benchmarks/compare.py                 the table
    python benchmarks/compare.py --rounds 7      more rounds

First of all the two must agree: cost and all gradients of LeNet, in float64.

Every measurement is made in a process of its own, which has all cores to itself. A ratio compares this project with
one of PyTorch's two memory layouts in the same round; absolute times vary from hour to hour, ratios much less. A round
in which PyTorch took more than three times its own best is not counted: another program was using the cores.

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
SCORING_BATCHES = (100, 1000, 10000)    # PyTorch's speed depends on how many images it is given at a time
DISTURBED = 3                           # a round in which PyTorch took this many times its best is not counted

# The floor: multiplications and additions in the matrix products of one training iteration (three products per layer,
# two for the first convolution, whose input needs no gradient) and of scoring one image.
FORWARD_FLOP = [2 * 24 * 24 * 25 * 20, 2 * 8 * 8 * 500 * 50, 2 * 800 * 500, 2 * 500 * 9]
ITERATION_FLOP = BATCH * (3 * sum(FORWARD_FLOP) - FORWARD_FLOP[0])
SCORING_FLOP = 10000 * sum(FORWARD_FLOP)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=5, help='how often every program is measured (default: 5)')
    parser.add_argument('--worker', choices=list(WORKERS),
                        help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        print(json.dumps(WORKERS[flags.worker]()))
    else:
        compare(flags.rounds)


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
                   {str(batch): lambda batch=batch: score(batch) for batch in SCORING_BATCHES})


def timings(iteration, order, scorings):
    """Seconds of a training iteration and of each scoring, medians after a warm-up, and peak memory in MB."""
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


WORKERS = {'agreement': check_agreement, 'project': measure_project, 'torch-nchw': lambda: measure_torch(False),
           'torch-channels-last': lambda: measure_torch(True), 'sgemm': measure_sgemm}


# ---------------------------------------------------------------------------------------------------------------
# The comparison
# ---------------------------------------------------------------------------------------------------------------


def compare(rounds):
    in_own_process('agreement')
    print('cost and all gradients of LeNet agree with PyTorch (float64)\n')
    results = {title: [] for title, *_ in programs()}
    sgemm = {title: [] for title, worker, _ in programs() if worker == 'project'}
    for number in range(rounds):
        for title, worker, unset in programs():
            results[title].append(in_own_process(worker, unset))
            if worker == 'project':
                sgemm[title].append(in_own_process('sgemm', unset))
        print(f'round {number + 1} of {rounds} done', file=sys.stderr)

    quiet = quiet_rounds(results['PyTorch, NCHW'], results['PyTorch, channels_last'])
    if len(quiet) < rounds:
        print(f'{len(quiet)} of {rounds} rounds count; in the others PyTorch took more than {DISTURBED} times its best')
    if not quiet:
        sys.exit('no round counts; run this again when no other program uses the cores')
    results, sgemm = ({title: [runs[i] for i in quiet] for title, runs in table.items()} for table in (results, sgemm))

    print_table(results)
    for title, rates in sgemm.items():
        rate, runs = statistics.median(rates), results[title]
        print(f'\n{title}: large products at {rate:.0f} GFLOP/s; the floor of products alone is')
        for name, flop, seconds in (('an iteration', ITERATION_FLOP, median(runs, 'iteration')),
                                    ('scoring', SCORING_FLOP, scoring(runs, 'all'))):
            floor = flop / rate / 1e9
            print(f'    {name:14}{floor * 1e3:8.2f} ms, and it takes {seconds / floor:.2f} times that')
        print_ratios(runs, results)


def programs():
    """(title, worker, environment variables that it runs without) of all that is compared."""
    result = [('PyTorch, NCHW', 'torch-nchw', []), ('PyTorch, channels_last', 'torch-channels-last', [])]
    if 'OPENBLAS_CORETYPE' in os.environ:
        title = f"this project, OPENBLAS_CORETYPE={os.environ['OPENBLAS_CORETYPE']}"
        result += [(title, 'project', ['OPENBLAS_NUM_THREADS'])]
    return [*result, ('this project', 'project', [name for name in os.environ if name.startswith('OPENBLAS_')])]


def in_own_process(worker, unset=()):
    """Run a worker without some environment variables. Returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment['PYTHONPATH'] = str(ROOT)
    process = subprocess.run([sys.executable, __file__, '--worker', worker], env=environment, text=True,
                             stdout=subprocess.PIPE)
    if process.returncode:
        sys.exit(f'{worker} failed, as said above (PyTorch comes with pip install -r benchmarks/requirements.txt)')
    return json.loads(process.stdout)


def quiet_rounds(*programs):
    """The numbers of the rounds in which every time of every program is at most DISTURBED times its best."""
    def times(run):
        return [run['iteration'], *run['scoring'].values()]

    quiet = set(range(len(programs[0])))
    for runs in programs:
        best = [min(column) for column in zip(*map(times, runs))]
        quiet &= {i for i, run in enumerate(runs) if all(a <= DISTURBED * b for a, b in zip(times(run), best))}
    return sorted(quiet)


def print_table(results):
    """Medians of every program; of PyTorch's scoring the fastest way to cut up the test images, then all of them."""
    print(f"{'':44} {'iteration':>10} {'10,000 test images':>34} {'peak memory':>12}")
    for title, runs in results.items():
        fastest = min(runs[0]['scoring'], key=lambda batch: scoring(runs, batch))
        batches = '' if fastest == 'all' else f' in batches of {fastest}'
        print(f"{title:44} {median(runs, 'iteration') * 1e3:7.2f} ms {scoring(runs, fastest):12.3f} s{batches:20} "
              f"{median(runs, 'memory'):9.0f} MB")
    print('\nPyTorch, channels_last, scores the test images in batches of '
          + ', '.join(f'{batch}: {scoring(results["PyTorch, channels_last"], str(batch)):.3f} s'
                      for batch in SCORING_BATCHES))


def median(runs, name):
    return statistics.median(run[name] for run in runs)


def scoring(runs, batch):
    """Median seconds of scoring the test images in batches of this size."""
    return statistics.median(run['scoring'][batch] for run in runs)


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
