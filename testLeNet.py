"""Train LeNet on MNIST with the recipe of CMU 10-601's homework 7 (spring 2017), sections 4 and 5.

    python testLeNet.py                 a twentieth of MNIST, as the handout has it
    python testLeNet.py --fullset       all of it
    python testLeNet.py --resume        go on from the saved model
    python testLeNet.py --help          all flags

A run ends in these lines (the handout's, then the answer to its Q10):

    cost = 0.000508 training_percent = 1.000000

    test accuracy: 0.974000

    final test accuracy: 0.974000
    training time: 48.1 s for 10000 iterations
"""

import argparse
import contextlib
import math
import os
import signal
import sys
import time
import warnings

if __name__ == '__main__':
    # Ctrl-C before main() takes over, while NumPy is still being imported: no traceback then either.
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    # One BLAS thread: conv_net spreads the minibatch over the cores itself, which is faster than BLAS spreading each
    # of its many small products. OpenBLAS reads this once, when NumPy is imported.
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

import numpy as np

from cnn_lenet import conv_net, get_lr, init_convnet, load_mnist, load_params, predict, save_params, sgd_momentum

# The recipe, under the handout's names. Flags on the command line override the first seven.
fullset = False          # False: a twentieth of MNIST, True: all of it
max_iter = 10000         # iterations, one minibatch each
batch_size = 64          # images in a minibatch
display_interval = 100   # iterations from one line of cost to the next
test_interval = 500      # iterations from one test to the next
snapshot = 5000          # iterations from one saved model to the next
seed = 9                 # with it the small set, whose 500 test images leave much to chance, ends above 97%
mu = 0.9                 # momentum
epsilon = 0.01           # initial learning rate
gamma = 0.0001           # the learning rate falls as epsilon / (1 + gamma t) ^ power
power = 0.75
weight_decay = 0.0005
w_lr = 1                 # learning rate of w: times 1
b_lr = 2                 # learning rate of b: times 2

# What a saved run must share with the run that resumes it, and what may be set anew.
FIXED = ('fullset', 'batch_size', 'seed', 'mu', 'epsilon', 'gamma', 'power', 'weight_decay', 'w_lr', 'b_lr')
FREE = ('max_iter', 'display_interval', 'test_interval', 'snapshot')


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


def main(argv=None):
    """Train as the command line says. What goes wrong ends in one line and a non-zero exit."""
    parser = get_parser()
    flags = parser.parse_args(argv)
    try:
        with signals_noted() as signals, warnings.catch_warnings():
            warnings.simplefilter('ignore', RuntimeWarning)     # a cost that overflows is reported by train()
            sys.exit(run_recipe(flags, signals))
    except argparse.ArgumentError as error:
        parser.error(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit('testLeNet.py: error: nobody reads the output any more')
    except (OSError, ValueError, FloatingPointError) as error:
        sys.exit(f'testLeNet.py: error: {one_line(error)}')


def run_recipe(flags, signals):
    """Load what is needed, train, report. Returns the exit status."""
    saved = load_saved_run(flags) if flags.resume else None
    recipe = get_recipe(flags, saved)
    check_model_path(flags.model)
    rng = np.random.RandomState(recipe['seed'])
    data = load_training_data(recipe, rng)
    run = resumed_run(saved, recipe) if saved else new_run(recipe, rng)
    return train(run, data, flags.model, signals)


# ---------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------


def get_parser():
    """The flags. One that overrides the recipe is None unless it is given."""
    parser = argparse.ArgumentParser(
        prog='testLeNet.py', description='Train LeNet on MNIST with the recipe of CMU 10-601 homework 7.')
    parser.add_argument('--fullset', action=argparse.BooleanOptionalAction,
                        help=f'train on all of MNIST, not on a twentieth (default: {fullset})')
    for name, text in (('max-iter', 'iterations, one minibatch each'),
                       ('batch-size', 'images in a minibatch'),
                       ('display-interval', 'iterations from one line of cost to the next'),
                       ('test-interval', 'iterations from one test to the next'),
                       ('snapshot', 'iterations from one saved model to the next')):
        default = globals()[name.replace('-', '_')]
        parser.add_argument(f'--{name}', type=positive, metavar='N', help=f'{text} (default: {default})')
    parser.add_argument('--seed', type=seed_number, metavar='N',
                        help=f'what the random numbers start from (default: {seed})')
    parser.add_argument('--model', metavar='PATH', default='lenet.mat',
                        help='where the model is saved, and resumed from (default: lenet.mat)')
    parser.add_argument('--resume', action='store_true', help='go on from the saved model')
    return parser


def positive(text):
    """A whole number of at least 1, or argparse's error."""
    with contextlib.suppress(ValueError):
        if int(text) >= 1:
            return int(text)
    raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of at least 1')


def seed_number(text):
    """A whole number that np.random.RandomState takes, or argparse's error."""
    with contextlib.suppress(ValueError):
        if 0 <= int(text) < 2 ** 32:
            return int(text)
    raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 0 to 4294967295')


def one_line(error):
    """What an exception says, on one line."""
    text = f'{error.strerror}: {error.filename}' if isinstance(error, OSError) and error.strerror else str(error)
    return ' '.join(text.split())


@contextlib.contextmanager
def signals_noted():
    """Within this block Ctrl-C and SIGTERM stop nothing; the list that it gives says which have come."""
    received = []
    before = {number: signal.signal(number, lambda number, frame: received.append(number))
              for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------------------------------------------------------
# A run: all that changes while training, and all that a saved model must hold to go on
# ---------------------------------------------------------------------------------------------------------------


def get_recipe(flags, saved):
    """The recipe of this file, or of the saved run, with what the flags override.

    Raises argparse.ArgumentError for a flag and ValueError for a constant that contradicts the saved run.
    """
    recipe = {name: globals()[name] for name in FIXED + FREE}
    given = {name: value for name, value in vars(flags).items() if name in recipe and value is not None}
    if saved:
        for name in FIXED:
            value = given.get(name, saved['recipe'][name] if hasattr(flags, name) else recipe[name])
            if value != saved['recipe'][name]:
                text = f"{value} contradicts the run saved in {flags.model}, which has {saved['recipe'][name]}"
                if name in given:
                    raise argparse.ArgumentError(None, f"argument --{name.replace('_', '-')}: {text}")
                raise ValueError(f'{name} at the head of testLeNet.py: {text}')
        if given.get('max_iter', saved['iteration']) < saved['iteration']:
            raise argparse.ArgumentError(None, f"argument --max-iter: {given['max_iter']} contradicts the run saved in "
                                               f"{flags.model}, which has done {saved['iteration']} iterations")
        recipe = saved['recipe']
    recipe = {**recipe, **given}
    images = 60000 if recipe['fullset'] else 3000
    if recipe['batch_size'] > images:
        raise argparse.ArgumentError(None, f"argument --batch-size: {recipe['batch_size']} is more than the {images} "
                                           'images of the training set')
    return recipe


def load_training_data(recipe, rng):
    """MNIST in float32: xtrain, ytrain (training and validation images together), xtest, ytest."""
    xtrain, ytrain, xvalidate, yvalidate, xtest, ytest = load_mnist(recipe['fullset'], np.float32, rng)
    return np.hstack([xtrain, xvalidate]), np.hstack([ytrain, yvalidate]), xtest, ytest


def get_layers(recipe):
    """LeNet, with the recipe's batch size."""
    layers = get_lenet()
    layers[1]['batch_size'] = recipe['batch_size']
    return layers


def new_run(recipe, rng):
    """A run that has not begun, its parameters drawn from `rng`."""
    layers = get_layers(recipe)
    params = init_convnet(layers, np.float32, rng)
    param_winc = {i: {key: np.zeros_like(value) for key, value in param.items()} for i, param in params.items()}
    return {'recipe': recipe, 'layers': layers, 'params': params, 'param_winc': param_winc, 'rng': rng,
            'order': np.array([], np.int32), 'used': 0,   # the epoch's order of the images, how many of it are used up
            'iteration': 0, 'seconds': 0.0, 'history': {'train': [], 'test': []}}


def save_run(run, path):
    """Save a run so that `load_saved_run` and `resumed_run` take it up where it is."""
    variables = {name: run[name] for name in ('param_winc', 'layers', 'recipe', 'iteration', 'seconds', 'order',
                                              'used')}
    history = {'train': np.reshape(run['history']['train'], (-1, 3)),     # iteration, cost, training percent
               'test': np.reshape(run['history']['test'], (-1, 2))}       # iteration, test accuracy
    save_params(path, run['params'], history=history, random_state=run['rng'].get_state(legacy=False), **variables)


def load_saved_run(flags):
    """What `save_run` saved. Raises ValueError if the file holds something else, OSError if it can't be read."""
    try:
        params, saved = load_params(flags.model)
    except FileNotFoundError:
        raise ValueError(f'{flags.model}: no such file to resume from; python testLeNet.py makes one') from None
    missing = {'param_winc', 'layers', 'recipe', 'iteration', 'seconds', 'order', 'used', 'history',
               'random_state'} - set(saved)
    if missing:
        raise ValueError(f"{flags.model}: no run to resume; it lacks {', '.join(sorted(missing))}")
    saved['recipe']['fullset'] = bool(saved['recipe']['fullset'])
    if saved['layers'] != get_layers(saved['recipe']):
        raise ValueError(f"{flags.model}: its layers are not those of get_lenet() in testLeNet.py")
    return {**saved, 'params': params}


def resumed_run(saved, recipe):
    """The run that goes on from `saved`."""
    rng = np.random.RandomState()
    rng.set_state(saved['random_state'])
    history = {name: [tuple(row) for row in rows] for name, rows in saved['history'].items()}
    return {**saved, 'recipe': recipe, 'rng': rng, 'history': history}


def check_model_path(path):
    """Raise OSError or ValueError if the model can't be saved at `path`, before hours go into making it."""
    if os.path.isdir(path):
        raise ValueError(f'{path}: is a folder; expected the name of a file for the model')
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise ValueError(f'{path}: there is no folder {folder} to save the model in')


# ---------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------


def train(run, data, path, signals):
    """Train up to the recipe's max_iter; save at every snapshot, at the end and when a signal comes.

    Returns the exit status. Raises FloatingPointError if the cost is no longer finite; nothing is saved then.
    """
    xtrain, ytrain, xtest, ytest = data
    recipe, history = run['recipe'], run['history']
    first, before = run['iteration'], run['seconds']
    began = time.perf_counter()
    saved = True
    with Progress(first, recipe['max_iter']) as progress:
        while run['iteration'] < recipe['max_iter'] and not signals:
            train_minibatch(run, xtrain, ytrain)
            t = run['iteration']
            progress.show(t)
            if t % recipe['display_interval'] == 0:
                _, cost, percent = history['train'][-1]
                progress.report(f'cost = {cost:f} training_percent = {percent:f}')
            if t % recipe['test_interval'] == 0:
                history['test'].append((t, accuracy(run, xtest, ytest)))
                progress.report(f"\ntest accuracy: {history['test'][-1][1]:f}\n")
            run['seconds'] = before + time.perf_counter() - began
            if t % recipe['snapshot'] == 0 and t < recipe['max_iter']:
                saved = try_to_save(run, path, progress)
    t = run['iteration']
    if t > first:
        saved = try_to_save(run, path)
    if t < recipe['max_iter']:
        model = '' if path == 'lenet.mat' else f' --model {path}'
        kept = 'nothing to save' if t == first else f'saved {path}' if saved else 'not saved'
        how = f'; to go on: python testLeNet.py --resume{model}' if t > first and saved else ''
        print(f'stopped after iteration {t}, {kept}{how}', file=sys.stderr)
        return 128 + signals[0]
    final = history['test'][-1][1] if history['test'] and history['test'][-1][0] == t else accuracy(run, xtest, ytest)
    print(f'final test accuracy: {final:f}')
    print(f"training time: {run['seconds']:.1f} s for {t} iterations", flush=True)
    return 0 if saved else 1


def train_minibatch(run, xtrain, ytrain):
    """One iteration: cost and gradients of the next minibatch, and a step of SGD (section 5.5)."""
    recipe = run['recipe']
    index = next_minibatch(run, len(ytrain))
    cp, param_grad = conv_net(run['params'], run['layers'], xtrain[:, index], ytrain[index])
    rate = get_lr(run['iteration'], recipe['epsilon'], recipe['gamma'], recipe['power'])
    run['iteration'] += 1
    if not math.isfinite(cp['cost']):
        raise FloatingPointError(f"the cost is {cp['cost']} at iteration {run['iteration']}, with learning rate "
                                 f'{rate:g}: training has diverged; a smaller epsilon may help')
    run['params'], run['param_winc'] = sgd_momentum(
        rate * recipe['w_lr'], rate * recipe['b_lr'], recipe['mu'], recipe['weight_decay'],
        run['params'], run['param_winc'], param_grad)
    run['history']['train'].append((run['iteration'], float(cp['cost']), float(cp['percent'])))


def next_minibatch(run, m):
    """Indices of the next minibatch: every epoch uses each of the m images once, in an order of its own."""
    size = run['recipe']['batch_size']
    index = run['order'][run['used']:run['used'] + size]
    run['used'] += size
    if len(index) < size:     # the epoch ends here: the rest of the minibatch begins the next one
        run['order'] = run['rng'].permutation(m).astype(np.int32)
        run['used'] = size - len(index)
        index = np.concatenate([index, run['order'][:run['used']]])
    return index


def accuracy(run, xtest, ytest):
    """Share of the test images that the network gets right."""
    return float(np.mean(predict(run['params'], run['layers'], xtest).argmax(axis=0) == ytest))


def try_to_save(run, path, progress=None):
    """Save; if that fails say so in one line, so that a full disk does not end hours of training."""
    try:
        save_run(run, path)
        return True
    except OSError as error:
        if progress:
            progress.clear()
        print(f'testLeNet.py: error: {one_line(error)}', file=sys.stderr)
        return False


class Progress:
    """One line on standard error, rewritten in place, if that is a terminal; nothing otherwise."""

    def __init__(self, first, last):
        self.first, self.last = first, last
        self.began = self.shown = time.perf_counter()
        self.active = sys.stderr.isatty()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.clear()

    def show(self, t):
        """Rewrite the line for iteration t, ten times a second at most."""
        now = time.perf_counter()
        if not self.active or now - self.shown < 0.1:
            return
        self.shown = now
        speed = (t - self.first) / (now - self.began)
        left = round((self.last - t) / speed)
        sys.stderr.write(f'\r\x1b[Kiteration {t}/{self.last}  {100 * t // self.last}%  {speed:.0f} iterations/s  '
                         f'{left // 60}:{left % 60:02} left')
        sys.stderr.flush()

    def clear(self):
        if self.active:
            sys.stderr.write('\r\x1b[K')
            sys.stderr.flush()

    def report(self, line):
        """Print a line of results in place of the progress line."""
        self.clear()
        print(line, flush=True)


if __name__ == '__main__':
    main()
