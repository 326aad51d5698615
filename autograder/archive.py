"""Which files of what was handed in are the submission.

The cage runs this before it imports them, as whatever a tar or zip is made of may take the program that reads it any
time and memory, or end it.
"""

import contextlib
import io
import os
import re
import tarfile
import zipfile

NAME = 'cnn_lenet.py'
ARCHIVES = ('.tar', '.tgz', '.gz', '.bz2', '.xz', '.zip')
MAX_SOURCE = 2 ** 20             # bytes of a cnn_lenet.py
MAX_BYTES = 50 * 2 ** 20         # bytes of all files, unpacked
MAX_FILES = 1000
UNREAD = ('__pycache__', '__MACOSX')

# What comes in place of a cnn_lenet.py: a pattern of names, and what the student is told.
MISTAKEN = {
    r'cnn_lenet\.py': f'is written in other capitals; rename it to {NAME}',
    r'.*\.ipynb': 'is a notebook; export it as a Python script',
    r'.*\.m': f'is for Octave or MATLAB; the Python version is {NAME}',
    r'cnn_?lenet.*\.(py|txt)|cnn_lenet': f'has another name; rename it to {NAME}',
    r'.*\.(tar|tgz|gz|bz2|xz|zip)': f'is an archive inside; hand in one that holds {NAME} itself',
    r'.*\.(rar|7z)': 'is an archive that is not read; hand in a tar or a zip',
}


class Refused(ValueError):
    """The submission is not acceptable; the text says why."""


def unpack(files, mnist):
    """Put the submission into this folder, and the data for those who load it when they are imported.

    files  dict, path -> bytes: what was handed in
    Returns the path of its cnn_lenet.py there. Raises Refused if there is not exactly one.
    """
    source, chosen = choose(files)
    for name, content in {'mnist_all.mat': mnist, **chosen}.items():
        with contextlib.suppress(OSError, ValueError):         # a helper's name that this file system does not take
            os.makedirs(os.path.dirname(name) or '.', exist_ok=True)
            with open(name, 'wb') as file:
                file.write(content)
    return source


def choose(files, outermost=True):
    """The path of the one cnn_lenet.py, and the files from its folder on: dict, path from there -> bytes.

    One at the top or in hw7/, as the handout asks for, counts before others. If there is none, a single archive is
    read, too.
    """
    sources = [path for path in files if path.split('/')[-1] == NAME]
    found = [path for path in sources if path in (NAME, f'hw7/{NAME}')] or sources
    archives = [path for path in files if path.lower().endswith(ARCHIVES)]
    if outermost and not found and len(archives) == 1:
        return choose(read(files[archives[0]]), outermost=False)
    if len(found) != 1:
        held = found or sorted(files)
        listed = ', '.join(path[:60] for path in held[:5]) + (f' and {len(held) - 5} more' if len(held) > 5 else '')
        raise Refused(f'the submission holds {len(found)} files {NAME}; expected one. It holds '
                      f"{listed or 'nothing'}{'' if found else mistaken(held)}")
    content, folder = files[found[0]], found[0][:-len(NAME)]
    if len(content) > MAX_SOURCE:
        raise Refused(f'{NAME} has {len(content)} bytes; expected at most {MAX_SOURCE}')
    if content.lstrip().startswith(b'{') and b'"nbformat"' in content:
        raise Refused(f'{NAME} is a notebook that was renamed; export it as a Python script')
    return found[0], {path[len(folder):]: content for path, content in files.items() if path.startswith(folder)}


def mistaken(paths):
    """What the first of these files looks like that was meant to be a cnn_lenet.py."""
    return next((f'; {path[:60]} {advice}' for pattern, advice in MISTAKEN.items() for path in paths
                 if re.fullmatch(pattern, path.split('/')[-1], re.IGNORECASE)), '')


def is_taken(path, ordinary, alone=False):
    """Hidden files, what programs leave behind, links, and paths that no student has are not taken along.

    Raises Refused for a link and the like in place of a cnn_lenet.py, or of a file that is handed in alone.
    """
    parts = path.split('/')
    taken = len(path) <= 250 and len(parts) <= 20 and not any(part.startswith('.') or part in UNREAD for part in parts)
    if taken and not ordinary and (alone or parts[-1] == NAME):
        raise Refused(f'{path} is no ordinary file but a link, a device or the like')
    return taken and ordinary


def check_amount(count, total):
    if count > MAX_FILES or total > MAX_BYTES:
        raise Refused(f'the submission holds more than {MAX_FILES} files or more than {MAX_BYTES // 2 ** 20} MB')


def read(content):
    """The files of a tar or zip that are taken along: dict, path -> bytes."""
    files, total = {}, 0
    try:
        for count, (name, size, ordinary, contents) in enumerate(members(content)):
            if name.startswith('/') or '..' in name.split('/'):
                raise Refused(f'the submission holds the path {name[:100]!r}; expected paths inside the folder hw7')
            path, total = '/'.join(part for part in name.split('/') if part not in ('', '.')), total + size
            check_amount(count + 1, total)
            if path in files and path.split('/')[-1] == NAME:
                raise Refused(f'the submission holds 2 files {NAME} of the same path; expected one')
            if is_taken(path, ordinary):
                files[path] = contents()
    except Refused:
        raise
    except Exception as error:                         # a damaged archive raises whatever its reader trips over
        raise Refused(f'not a readable tar or zip file ({type(error).__name__}: {error})'[:300]) from None
    return files


def members(content):
    """(name, size, whether it is an ordinary file, a function that reads it) of what an archive holds."""
    try:
        tar = tarfile.open(fileobj=io.BytesIO(content))
    except tarfile.ReadError:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                ordinary = member.external_attr >> 28 in (0, 0o10)     # the type of file, where Unix has written it
                yield (member.filename.replace('\\', '/'), member.file_size, ordinary and not member.is_dir(),
                       lambda member=member: archive.read(member))
        return
    for member in tar:
        yield (member.name, member.size, member.isreg() and not member.issparse(),
               lambda member=member: tar.extractfile(member).read())
