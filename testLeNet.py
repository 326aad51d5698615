"""Train LeNet on MNIST with the recipe of CMU 10-601's homework 7 (spring 2017), sections 4 and 5.

    python testLeNet.py                 a twentieth of MNIST, as the handout has it
    python testLeNet.py --fullset       all of it
    python testLeNet.py --resume        go on from the saved model
    python testLeNet.py --help          all flags

A run ends in these lines (the handout's, then the answer to its Q10):

    cost = 0.000794 training_percent = 1.000000

    test accuracy: 0.976000

    final test accuracy: 0.976000 of 500 images
    training time: 89.1 s for 10000 iterations

Read `get_lenet` and `train`; the rest is about files, flags and signals. A wrong file or model is one line of error, a
wrong flag that and a summary of the flags; an error in the network or the solver is Python's own traceback. When an
error, Ctrl-C or a signal ends a run early, what it has trained is saved, unless the cost is no longer finite or Ctrl-C
comes twice.
"""

import argparse
import contextlib
import dataclasses
import itertools
import math
import os
import shlex
import signal
import sys
import tempfile
import time
import warnings

import numpy as np

import cnn_lenet
from cnn_lenet import (
    check_params,
    conv_net,
    get_lr,
    init_convnet,
    load_mnist,
    load_params,
    predict,
    save_params,
    sgd_momentum,
)

# The recipe, under the handout's names. The first seven can be overridden by flags: max_iter by --max-iter, and so on.
fullset = False          # False: a twentieth of MNIST, True: all of it
max_iter = 10000         # iterations, one minibatch each
batch_size = 64          # images in a minibatch
display_interval = 100   # iterations from one line of cost to the next
test_interval = 500      # iterations from one test to the next
snapshot = 5000          # iterations from one saved model to the next
seed = 9                 # of 17 the one that did best on the small set's 500 test images; 0.960 is the average
mu = 0.9                 # momentum
epsilon = 0.01           # initial learning rate
gamma = 0.0001           # the learning rate falls as epsilon / (1 + gamma t) ^ power
power = 0.75
weight_decay = 0.0005
w_lr = 1                 # learning rate of w: times 1
b_lr = 2                 # learning rate of b: times 2


def get_lenet(batch_size=batch_size):
    """LeNet as in Table 2 of the handout; LOSS is its last IP, SoftMax and Loss in one. Dict, key i is layer i."""
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


# ---------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Run:
    """The state of a training run: all that a saved model must hold for it to be resumed."""
    layers: dict                 # the network, which stays as it is
    params: dict                 # its parameters
    param_winc: dict             # their accumulated gradients, theta in eq. (9)
    rng: np.random.RandomState   # draws the order of each epoch
    order: np.ndarray            # indices of the images that this epoch has still to use, the next one first
    iteration: int               # how many have been done
    seconds: float               # how long they took
    history: dict                # 'train': [(iteration, cost, percent), ...], 'test': [(iteration, accuracy), ...]


def train(run, flags, data, console):
    """Train until flags.max_iter iterations are done or the console says to stop (section 5.5).

    flags  the recipe as the command line has it
    data   xtrain (784, m), ytrain (m,), xtest, ytest

    Returns the exit status of the script.
    """
    xtrain, ytrain, xtest, ytest = data
    first, started = run.iteration, time.perf_counter() - run.seconds
    try:
        while run.iteration < flags.max_iter and not console.stop:
            if len(run.order) < flags.batch_size:       # a new epoch: every image once more, in an order of its own
                run.order = np.append(run.order, run.rng.permutation(len(ytrain)))
            minibatch, order = np.split(run.order, [flags.batch_size])

            cp, param_grad = conv_net(run.params, run.layers, xtrain[:, minibatch], ytrain[minibatch], flags.threads)
            rate = get_lr(run.iteration, epsilon, gamma, power)
            if not math.isfinite(cp['cost']):           # nothing is saved, which leaves the last good snapshot
                sys.exit(f"testLeNet.py: error: the cost is {cp['cost']} at iteration {run.iteration + 1}, with "
                         f'learning rate {rate:g}: {why_not_finite(run)}')
            run.params, run.param_winc = sgd_momentum(rate * w_lr, rate * b_lr, mu, weight_decay,
                                                      run.params, run.param_winc, param_grad)
            run.order = order                           # only now: after an error above the run is as it was before
            run.iteration += 1
            run.history['train'].append((run.iteration, cp['cost'], cp['percent']))

            console.show_progress(run.iteration)
            if run.iteration % flags.display_interval == 0:
                console.print(f"cost = {cp['cost']:f} training_percent = {cp['percent']:f}")
            if run.iteration % flags.test_interval == 0:
                share = accuracy(run, flags, xtest, ytest)
                run.history['test'].append((run.iteration, share))
                console.print(f'\ntest accuracy: {share:f}\n')
            run.seconds = time.perf_counter() - started
            if run.iteration % flags.snapshot == 0 and run.iteration < flags.max_iter:
                save(run, flags, console)
    except Exception:                                   # Python reports it, once the iterations before it are saved
        if run.iteration > first:
            end_early(run, first, flags, console)
        raise
    if run.iteration < flags.max_iter:
        end_early(run, first, flags, console)
        return console.stop
    saved = run.iteration == first or save(run, flags, console)
    console.print(f'final test accuracy: {accuracy(run, flags, xtest, ytest):f} of {len(ytest)} images')
    console.print(f'training time: {run.seconds:.1f} s for {run.iteration} iterations')
    return console.stop or (0 if saved else 1)


def accuracy(run, flags, xtest, ytest):
    """Share of the test images that the network gets right."""
    return float(np.mean(predict(run.params, run.layers, xtest, flags.threads).argmax(axis=0) == ytest))


def why_not_finite(run):
    """Why the cost is not finite: training diverged, or the solver is wrong (conv_net names a wrong layer function)."""
    if all(np.isfinite(value).all() for param in run.params.values() for value in param.values()):
        return 'training has diverged; a smaller epsilon may help'
    return 'sgd_momentum (Q7) has returned parameters that are nan or infinite'


def end_early(run, first, flags, console):
    """Save a run that stops before its last iteration, and say in one line how it goes on."""
    if run.iteration == first:
        outcome = 'nothing to save'
    elif save(run, flags, console):
        outcome = f'saved {flags.model}; to go on: python testLeNet.py --resume{model_flag(flags.model)}'
    else:
        outcome = 'not saved'
    console.tell(f'stopped after iteration {run.iteration}, {outcome}')


def main(argv=None):
    """Train as the command line says. Raises SystemExit with the exit status, or with one line about what is wrong."""
    try:
        flags, run = get_flags(argv)
        check_model_path(flags.model)
        rng = np.random.RandomState(flags.seed)
        xtrain, ytrain, xvalidate, yvalidate, xtest, ytest = load_mnist(flags.fullset, np.float32, rng)
    except (OSError, ValueError) as error:
        sys.exit(f'testLeNet.py: error: {one_line(error)}')
    except KeyboardInterrupt:                           # there is nothing yet that could be saved
        sys.exit(130)
    # The recipe is given: nothing is left to choose on the validation images, so they are trained on too.
    data = np.hstack([xtrain, xvalidate]), np.hstack([ytrain, yvalidate]), xtest, ytest
    if not flags.resume:
        run = new_run(flags.batch_size, rng)
    with Console(run.iteration, flags.max_iter) as console, warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)             # a cost that overflows is reported by train()
        status = train(run, flags, data, console)
    sys.exit(status)


# ---------------------------------------------------------------------------------------------------------------
# A run: new, saved, resumed
# ---------------------------------------------------------------------------------------------------------------


def new_run(batch_size, rng):
    """A run that has not begun, its parameters drawn from `rng`."""
    layers = get_lenet(batch_size)
    params = init_convnet(layers, np.float32, rng)
    param_winc = {i: {key: np.zeros_like(value) for key, value in param.items()} for i, param in params.items()}
    return Run(layers, params, param_winc, rng, order=np.array([], int), iteration=0, seconds=0.0,
               history={'train': [], 'test': []})


RECIPE_FLAGS = ('fullset', 'max_iter', 'batch_size', 'display_interval', 'test_interval', 'snapshot', 'seed')


def solver():
    """The rest of the recipe, which has no flags."""
    return {'mu': mu, 'epsilon': epsilon, 'gamma': gamma, 'power': power, 'weight_decay': weight_decay,
            'w_lr': w_lr, 'b_lr': b_lr}


def save(run, flags, console):
    """Save the run. Returns whether that worked; if not, one line says why, and the training can go on."""
    kept = None
    try:
        check_run(run)
        kept = keep_longer_run(flags.model, run.iteration)
        save_params(flags.model, run.params, param_winc=run.param_winc, layers=run.layers,
                    recipe={**{name: getattr(flags, name) for name in RECIPE_FLAGS}, **solver()},
                    iteration=run.iteration, seconds=run.seconds, order=run.order,
                    history={'train': np.reshape(run.history['train'], (-1, 3)),
                             'test': np.reshape(run.history['test'], (-1, 2))},
                    random_state=run.rng.get_state(legacy=False))
    except (OSError, TypeError, ValueError) as error:
        if kept:
            os.replace(kept, os.path.realpath(flags.model))
        console.tell(f'testLeNet.py: error: {one_line(error)}')
        return False
    if kept:
        console.tell(f'the old {flags.model} is kept beside the new one, as {os.path.basename(kept)}')
    return True


def keep_longer_run(path, iteration):
    """Rename the file at `path`, unless it is a run of at most so many iterations. Returns the new name, or None."""
    try:
        if load_params(path)[1]['iteration'] <= iteration:
            return None
    except FileNotFoundError:
        return None
    except (OSError, LookupError, TypeError, ValueError):
        pass                                            # not a run; whatever it is, it is not ours to overwrite
    path = os.path.realpath(path)
    stem, extension = os.path.splitext(path)
    for number in itertools.count(1):
        kept = f'{stem}-{number}{extension}'
        with contextlib.suppress(FileExistsError):
            open(kept, 'x').close()                     # the name is free, and now it is ours
            os.replace(path, kept)
            return kept


def load_run(path):
    """(recipe, run) of a model that `save` saved. Raises OSError if it can't be read, ValueError if it holds no run."""
    try:
        params, saved = load_params(path)
    except FileNotFoundError:
        command = f'python testLeNet.py{model_flag(path)}'
        raise ValueError(f'{path}: no such file to resume from; {command} makes one') from None
    try:
        recipe = {name: saved['recipe'][name] for name in solver()}
        recipe.update({name: int(saved['recipe'][name]) for name in RECIPE_FLAGS})
        recipe['fullset'] = bool(recipe['fullset'])
        rng = np.random.RandomState()
        rng.set_state(saved['random_state'])
        run = Run(get_lenet(recipe['batch_size']), params, saved['param_winc'], rng,
                  order=np.ravel(saved['order']).astype(int)[saved.get('used', 0):],      # older files say what is used
                  iteration=int(saved['iteration']), seconds=float(saved['seconds']),
                  history={'train': list(np.reshape(saved['history']['train'], (-1, 3))),
                           'test': list(np.reshape(saved['history']['test'], (-1, 2)))})
        if saved['layers'] != run.layers:
            raise ValueError('its layers are not those of get_lenet() in testLeNet.py')
        check_run(run)
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: no run to resume ({type(error).__name__}: {error})') from None
    return recipe, run


def check_run(run):
    """Raise ValueError unless params and param_winc fit the layers and are finite: a solver or a file may be wrong."""
    check_params(run.params, run.layers, 'params', finite=True)
    check_params(run.param_winc, run.layers, 'param_winc', finite=True)


def check_model_path(path):
    """Try, without touching the file at `path`, whether a model can be saved there. Raises OSError or ValueError."""
    if os.path.isfile(path) and os.path.samefile(path, cnn_lenet.MNIST_FILE):
        raise ValueError(f'{path}: these are the images of MNIST; expected another file for the model')
    if not os.path.isfile(path) and (os.path.exists(path) or not os.path.basename(path)):
        raise ValueError(f'{path!r} is not a file; expected the name of a file for the model')
    folder, name = os.path.split(os.path.realpath(path))
    try:
        tempfile.NamedTemporaryFile(dir=folder, prefix=name).close()
        if os.path.exists(path):
            open(path, 'r+b').close()                   # writes nothing, but a read-only file is an error
    except OSError as error:
        raise OSError(error.errno, f'cannot save: {error.strerror}', path) from None


# ---------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------

def get_flags(argv):
    """(flags, run): what the command line says, and the saved run that it resumes, or None.

    Raises SystemExit for a wrong flag, OSError or ValueError for a model that can't be resumed.
    """
    parser = get_parser()
    flags = parser.parse_args(argv)
    run = None
    if flags.resume:
        recipe, run = load_run(flags.model)
        parser.set_defaults(**{name: recipe[name] for name in RECIPE_FLAGS})
        flags = parser.parse_args(argv)                 # what is not given is now as in the saved run
        contradicts = f'contradicts the run saved in {flags.model}, which has'
        for name in ('fullset', 'batch_size', 'seed'):
            value = getattr(flags, name)
            if value != recipe[name]:
                parser.error(f"argument --{name.replace('_', '-')}: {value} {contradicts} {recipe[name]}")
        if flags.max_iter < run.iteration:
            parser.error(f'argument --max-iter: {flags.max_iter} {contradicts} done {run.iteration} iterations')
        for name, value in solver().items():
            if value != recipe[name]:
                raise ValueError(f'{name} at the head of testLeNet.py: {value} {contradicts} {recipe[name]}')
    images = 60000 if flags.fullset else 3000
    if flags.batch_size > images:
        parser.error(f'argument --batch-size: {flags.batch_size} is more than the {images} images of the training set')
    return flags, run


def get_parser():
    """The flags. The defaults of those that belong to the recipe stand at the head of this file."""
    parser = argparse.ArgumentParser(
        prog='testLeNet.py', description='Train LeNet on MNIST with the recipe of CMU 10-601 homework 7.')
    parser.add_argument('--fullset', action=argparse.BooleanOptionalAction,
                        help='train on all of MNIST, not on a twentieth (default: %(default)s)')
    for flag, least, text in (
            ('--max-iter', 1, 'iterations, one minibatch each'),
            ('--batch-size', 1, 'images in a minibatch'),
            ('--display-interval', 1, 'iterations from one line of cost to the next'),
            ('--test-interval', 1, 'iterations from one test to the next'),
            ('--snapshot', 1, 'iterations from one saved model to the next'),
            ('--seed', 0, 'what the random numbers start from')):
        parser.add_argument(flag, type=whole_number(least), metavar='N', help=f'{text} (default: %(default)s)')
    parser.add_argument('--threads', type=whole_number(1), metavar='N',
                        help='how many threads share the work, which changes nothing but the time; with 1, all is done '
                             'in the main thread, where a debugger can follow (default: one for each core)')
    parser.add_argument('--model', metavar='PATH', default='lenet.mat',
                        help='where the model is saved, and resumed from (default: %(default)s)')
    parser.add_argument('--resume', action='store_true', help='go on from the saved model')
    parser.set_defaults(fullset=fullset, max_iter=max_iter, batch_size=batch_size, display_interval=display_interval,
                        test_interval=test_interval, snapshot=snapshot, seed=seed)
    return parser


def whole_number(least):
    """The type of a flag: whole numbers from `least` to the largest seed that np.random.RandomState takes."""
    def convert(text):
        with contextlib.suppress(ValueError):
            if least <= int(text) < 2 ** 32:
                return int(text)
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from {least} to {2 ** 32 - 1}')
    return convert


def model_flag(path):
    """--model as one would have to type it for this path."""
    return '' if path == 'lenet.mat' else f' --model {shlex.quote(path)}'


def one_line(error):
    """What an exception says, on one line."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f'{error.strerror}: {error.filename}' if error.filename else error.strerror
    return ' '.join(text.split())


# ---------------------------------------------------------------------------------------------------------------
# Console: what a run prints, and what stops it
# ---------------------------------------------------------------------------------------------------------------

SIGNALS = [getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP') if hasattr(signal, name)]


class Console:
    """Where a run prints. In a `with` block, Ctrl-C and other signals ask the run to stop, which then saves.

    stop    0, or the exit status with which the run is to end after this iteration
    """

    def __init__(self, first, last):
        self.first, self.last = first, last             # iterations of the run
        self.began = self.shown = time.perf_counter()
        self.terminal = sys.stderr is not None and sys.stderr.isatty()
        self.stop = 0

    def __enter__(self):
        self.before = {number: signal.getsignal(number) for number in SIGNALS}
        for number, handler in self.before.items():
            if handler != signal.SIG_IGN:               # nohup has SIGHUP ignored, and so it stays
                signal.signal(number, self.on_signal)
        return self

    def __exit__(self, *exception):
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.tell('', end='')

    def on_signal(self, number, frame):
        """The first stops the run after this iteration, the second at once (not SIGHUP: some systems send it twice)."""
        if self.stop < 128:
            self.stop = 128 + number
            self.tell('finishing this iteration, then saving; Ctrl-C again to stop now')
        elif signal.Signals(number).name != 'SIGHUP':
            self.tell('', end='')
            os._exit(128 + number)      # sys.exit waits for conv_net's threads, whose loop may be endless

    def print(self, line):
        """Print a line of results. If that can't be done (a closed pipe, a full disk) the run is to stop."""
        self.tell('', end='')
        try:
            print(line, flush=True)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())      # or Python tries again at its exit
            self.tell(f'testLeNet.py: error: standard output: {error.strerror}')
            self.stop = self.stop or 1

    def tell(self, text, end='\n'):
        """Write on standard error, in place of the line of progress. If nobody is there to read it, that is no harm."""
        text = '\r\x1b[K' * self.terminal + text + end
        if text and sys.stderr is not None:
            with contextlib.suppress(OSError):
                os.write(sys.stderr.fileno(), os.fsencode(text))        # print fails if a signal comes in its middle

    def show_progress(self, t):
        """On a terminal, say how far the run is in a line that is rewritten ten times a second at most."""
        now = time.perf_counter()
        if not self.terminal or now - self.shown < 0.1:
            return
        self.shown = now
        speed = (t - self.first) / (now - self.began)
        left = round((self.last - t) / speed)
        self.tell(f'iteration {t}/{self.last}  {100 * t // self.last}%  {speed:.0f} iterations/s  '
                  f'{left // 60}:{left % 60:02} left', end='')


if __name__ == '__main__':
    main()
