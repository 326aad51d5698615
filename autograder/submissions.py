"""A submission: what was handed in, and the cage in which it is unpacked, imported and called."""

import os
import stat
import time
from pathlib import Path

import archive
import cage


def handed_in(path):
    """What there is in a folder, or a file alone, with archives as they are: dict, path -> bytes.

    Raises archive.Refused if it is too much or cannot be read. Nothing but ordinary files is opened.
    """
    files, total = {}, 0
    try:
        for name, place in everything(path):
            status = place.lstat()
            if archive.is_taken(name, stat.S_ISREG(status.st_mode), alone=place is path):
                total += status.st_size
                archive.check_amount(len(files) + 1, total)
                files[name] = place.read_bytes()
    except OSError as error:
        raise archive.Refused(f'{os.path.basename(error.filename)} cannot be read ({error.strerror})') from None
    return files


def everything(path):
    """(name, path) of a file alone, or of the files in a folder that are not hidden. A Python file alone is meant to be
    the cnn_lenet.py, and one without an ending to be a tar. Links are not followed."""
    def stop(error):
        raise error

    if not path.is_dir():
        yield {'.py': archive.NAME, '': f'{path.name}.tar'}.get(path.suffix.lower(), path.name), path
        return
    for folder, folders, names in os.walk(path, onerror=stop):
        folders[:] = [name for name in folders if archive.is_taken(name, True)]
        for file in (Path(folder, name) for name in names):
            yield file.relative_to(path).as_posix(), file


def mnist():
    """The data, if the grader has it."""
    found = [path for path in (cage.HERE / 'mnist_all.mat', cage.HERE.parent / 'mnist_all.mat') if path.is_file()]
    return found[0].read_bytes() if found else b''


class Submission:
    """The submission in its cage: imported once, and again in a new cage after a call that has ended the old one.

    path       what was handed in, a file or a folder
    functions  the names of those that are graded
    source     the path of the cnn_lenet.py in what was handed in; None before it is known
    warning    what has ended the import too early, but behind all the functions; None if nothing has
    Raises archive.Refused if it is too much or cannot be read.
    """

    def __init__(self, path, functions, flags):
        self.path, self.files, self.functions, self.flags = path, handed_in(path), functions, flags
        self.mnist, self.cage, self.printed, self.source, self.warning = mnist(), None, False, None, None

    def begin(self, deadline):
        """Unpack and import the submission if that is not done. Raises archive.Refused, or Failure if it fails."""
        if self.cage:
            return
        deadline = min(deadline, time.monotonic() + self.flags.timeout)
        self.cage = cage.Cage(deadline, self.flags.memory, 10 * self.flags.timeout)
        try:
            answer, _ = self.cage.ask({'names': list(self.files), 'functions': self.functions}, deadline,
                                      [self.mnist, *self.files.values()])
        except cage.Failure as failure:
            answer = {'error': failure}
        if 'refused' in answer:
            raise archive.Refused(str(answer['refused']))
        if 'error' in answer:
            self.end(deadline)
            raise cage.Failure(f"import of cnn_lenet.py: {answer['error']}")
        alone = archive.NAME in self.files and not self.path.is_dir()
        self.source = self.path.name if alone else str(answer.get('source'))
        self.warning = str(answer['warning']) if 'warning' in answer else None

    def call(self, function, arguments, wanted, deadline):
        """Call a function. Returns the worker's answer: the parts of what was returned under 'result' and the name of a
        changed argument under 'changed', or an 'error'; 'printed' if something was.

        arguments  dict, name -> value
        wanted     'names' of what is returned, and 'leaves': for each part that is looked at, the path of keys to it,
                   and whether it is an array or else a number
        Raises Failure, and ends the cage, if there is no answer.
        """
        blobs = []
        request = {'function': function, 'arguments': cage.pack(arguments, blobs), **wanted}
        try:
            answer, blobs = self.cage.ask(request, deadline, blobs)
            try:
                if 'error' in answer:
                    return answer
                parts = zip(answer['result'], wanted['leaves'], strict=True)
                return {**answer, 'result': [cage.unpack(part, blobs) for part, _ in parts]}
            except Exception:                          # whatever a made-up answer trips over
                raise cage.Failure('the answer cannot be read') from None
        except cage.Failure:
            self.end(deadline)
            raise

    def end(self, deadline):
        """End the cage, if there is one."""
        if self.cage:
            ended, self.cage = self.cage, None
            ended.close(deadline)
