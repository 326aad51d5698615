"""A submission: its files, out of whatever was handed in, and the cage in which they are imported and called."""

import os
import re
import stat
import time
from pathlib import Path

import archive
import cage

ARCHIVES = ('.tar', '.tgz', '.gz', '.bz2', '.xz', '.zip')


def read_submission(path, deadline, flags):
    """The submission's files: dict, path from the folder of cnn_lenet.py -> bytes.

    Raises archive.Refused if there is not exactly one cnn_lenet.py or something else is not acceptable, cage.Failure if
    an archive cannot be read within time and memory.
    """
    try:
        files = (read_folder(path) if path.is_dir() else
                 {archive.NAME if path.suffix.lower() == '.py' else path.name: read_file(path)})
    except OSError as error:
        raise archive.Refused(f'{os.path.basename(error.filename)} is a link or cannot be read ({error.strerror}); '
                              'expected an ordinary file') from None
    if archive.NAME not in files:
        files = read_archive(*files.popitem(), deadline, flags)
    archive.check_source(files[archive.NAME])
    return files


def read_folder(folder):
    """The files of a folder, or the one archive that it holds in place of a cnn_lenet.py: dict, path -> bytes."""
    paths = folder_paths(folder)
    archives = [name for name in paths if '/' not in name and name.lower().endswith(ARCHIVES)]
    if len(archives) == 1 and not any(name.split('/')[-1] == archive.NAME for name in paths):
        return {archives[0]: read_file(paths[archives[0]])}
    contents = {}
    for name, path in archive.beside_source(paths, 'the folder').items():
        if name == archive.NAME or stat.S_ISREG(path.lstat().st_mode):
            contents[name] = read_file(path)
        if len(contents) > archive.MAX_FILES or sum(map(len, contents.values())) > archive.MAX_BYTES:
            raise archive.Refused(f'the folder holds more than {archive.MAX_FILES} files or '
                                  f'{archive.MAX_BYTES // 2 ** 20} MB beside {archive.NAME}')
    return contents


def folder_paths(folder):
    """Everything in a folder that is not a folder or hidden: dict, path -> Path. Links are not followed."""
    def stop(error):
        raise error

    found = {}
    for place, folders, names in os.walk(folder, onerror=stop):
        folders[:] = filter(archive.is_read, folders)
        for path in (Path(place, name) for name in filter(archive.is_read, names)):
            found[path.relative_to(folder).as_posix()] = path
    return found


def read_file(path):
    """The bytes of an ordinary file; a link, a pipe or the like is refused without waiting for it."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), 'rb') as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise archive.Refused(f'{path.name} is no ordinary file')
        if status.st_size > archive.MAX_BYTES:
            raise archive.Refused(f'{path.name} has {status.st_size} bytes; expected at most {archive.MAX_BYTES}')
        return file.read(archive.MAX_BYTES)


def read_archive(name, content, deadline, flags):
    reader = cage.Cage('archive', {'archive': content}, deadline, flags.memory, flags.timeout)
    try:
        answer, blobs = reader.ask({}, deadline)
    except cage.Failure as failure:
        raise cage.Failure(f'reading the archive: {failure}') from None
    finally:
        reader.close(deadline)
    if 'refused' in answer:
        raise archive.Refused(f"{answer['refused']}{archive.mistaken([name])}")
    return dict(zip(map(archive.checked_path, answer['names']), blobs))


def with_mnist(files):
    """The files, with the data for those who load it when they are imported, if the grader has it."""
    for folder in (cage.HERE, cage.HERE.parent):
        if 'mnist_all.mat' not in files and (folder / 'mnist_all.mat').is_file():
            return {**files, 'mnist_all.mat': (folder / 'mnist_all.mat').read_bytes()}
    return files


class Submission:
    """The submission in its cage: imported once, and again in a new cage after a call that has ended the old one."""

    def __init__(self, files, flags):
        self.files, self.flags, self.cage, self.printed = files, flags, None, False

    def begin(self, deadline):
        """Import the submission if it is not. Raises Failure if that does not work."""
        if self.cage:
            return
        deadline = min(deadline, time.monotonic() + self.flags.timeout)
        self.cage = cage.Cage('worker', self.files, deadline, self.flags.memory, 10 * self.flags.timeout)
        try:
            answer, _ = self.cage.ask({'function': None}, deadline)
            problem = describe(answer, self.files[archive.NAME]) if 'error' in answer else None
        except cage.Failure as failure:
            problem = str(failure)
        except Exception:                              # whatever a made-up answer trips over
            problem = 'the answer cannot be read'
        if problem:
            self.end(deadline)
            raise cage.Failure(f'import of cnn_lenet.py: {problem}')

    def call(self, function, arguments, form, deadline):
        """Call a function. Returns the worker's answer: what was returned under 'result' and the path to a changed
        argument under 'changed', or an 'error'; 'printed' if something was.

        form  which parts of a result are looked at, as grade.py's `form` says it
        Raises Failure, and ends the cage, if there is no answer.
        """
        blobs = []
        request = {'function': function, 'arguments': cage.pack(arguments, blobs), 'form': form}
        try:
            answer, blobs = self.cage.ask(request, deadline, blobs)
            try:
                if 'error' in answer:
                    answer['error'] = describe(answer, self.files[archive.NAME])
                else:
                    answer['result'] = cage.unpack(answer['result'], blobs)
            except Exception:                          # whatever a made-up answer trips over
                raise cage.Failure('the answer cannot be read') from None
            return answer
        except cage.Failure:
            self.end(deadline)
            raise

    def end(self, deadline):
        """End the cage, if there is one."""
        if self.cage:
            ended, self.cage = self.cage, None
            ended.close(deadline)


def describe(answer, source):
    """What an answer says that went wrong, in one line, with the line of the submission where that was."""
    text, line = re.sub(r' \(cnn_lenet\.py, line \d+\)$', '', str(answer['error'])), answer.get('line')
    if text.startswith('BdbQuit'):
        text = 'a debugger was left in (pdb or breakpoint())'
    if type(line) is not int or line < 1:
        return text
    code = ''.join(source.decode(errors='replace').split('\n')[line - 1:line]).strip()
    return f"{text} (line {min(line, 10 ** 6)} of cnn_lenet.py{': ' if code else ''}{code[:80]})"
