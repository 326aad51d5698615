"""A submission's files: which of them count, and the job that gets them out of an archive.

cage.py runs this file in a cage of its own for an archive, as whatever a tar or zip is made of may take the program
that reads it any time and memory, or end it.
"""

import io
import re
import tarfile
import zipfile

NAME = 'cnn_lenet.py'
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
}


def main(receive, send):
    """Send the files of the archive `archive` in this folder, each under its path from the one cnn_lenet.py."""
    request, _ = receive()
    try:
        with open('archive', 'rb') as file:
            chosen = beside_source(read(file.read()), 'the archive')
        send(request['token'], {'names': list(chosen)}, list(chosen.values()))
    except Refused as error:
        send(request['token'], {'refused': str(error)})
    except Exception as error:                         # a damaged archive raises whatever its reader trips over
        send(request['token'], {'refused': f'not a readable tar or zip file ({type(error).__name__}: {error})'[:300]})


class Refused(ValueError):
    """The submission is not acceptable; the text says why."""


def beside_source(files, where):
    """The files that lie beside the one cnn_lenet.py, or in folders beside it: the dict with paths from there.

    files  dict, path -> anything. A cnn_lenet.py at the top or in hw7/, as the handout asks for, counts before others.
    Raises Refused if there is not exactly one.
    """
    sources = [path for path in files if path.split('/')[-1] == NAME and is_read(path)]
    usual = [path for path in sources if path in (NAME, f'hw7/{NAME}')]
    found = usual or sources
    if len(found) != 1:
        held = found or sorted(filter(is_read, files)) or sorted(files)
        listed = ', '.join(path[:60] for path in held[:5]) + (f' and {len(held) - 5} more' if len(held) > 5 else '')
        raise Refused(f'{where} holds {len(found)} files {NAME}; expected one. It holds '
                      f"{listed or 'nothing'}{'' if found else mistaken(held)}")
    folder = found[0][:-len(NAME)]
    return {path[len(folder):]: content for path, content in files.items()
            if path.startswith(folder) and is_read(path[len(folder):])}


def mistaken(paths):
    """What the first of these files looks like that was meant to be a cnn_lenet.py."""
    return next((f'; {path[:60]} {advice}' for pattern, advice in MISTAKEN.items() for path in paths
                 if path.split('/')[-1] != NAME and re.fullmatch(pattern, path.split('/')[-1], re.IGNORECASE)), '')


def is_read(path):
    """Hidden files, what programs leave behind, and paths that no student has are not taken along."""
    parts = path.split('/')
    return len(path) <= 250 and len(parts) <= 20 and not any(part.startswith('.') or part in UNREAD for part in parts)


def check_source(content):
    if len(content) > MAX_SOURCE:
        raise Refused(f'{NAME} has {len(content)} bytes; expected at most {MAX_SOURCE}')
    if content.lstrip().startswith(b'{') and b'"nbformat"' in content:
        raise Refused(f'{NAME} is a notebook that was renamed; export it as a Python script')


def read(content):
    """The ordinary files of a tar or zip: dict, path -> bytes."""
    files, total = {}, 0
    for count, (name, size, ordinary, folder, contents) in enumerate(members(content)):
        if count >= MAX_FILES:
            raise Refused(f'the archive holds more than {MAX_FILES} files')
        path, total = checked_path(name), total + size
        if not (ordinary or folder):
            raise Refused(f'{name[:100]!r} in the archive is a link, a device or the like; expected ordinary files')
        if total > MAX_BYTES:
            raise Refused(f'the archive unpacks to more than {MAX_BYTES // 2 ** 20} MB')
        if path in files and path.split('/')[-1] == NAME:
            raise Refused(f'the archive holds 2 files {NAME} of the same path; expected one')
        if not folder:
            files[path] = contents()
    return files


def members(content):
    """(name, size, whether it is an ordinary file, whether a folder, a function that reads it) of what it holds."""
    try:
        tar = tarfile.open(fileobj=io.BytesIO(content))
    except tarfile.ReadError:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                ordinary = member.external_attr >> 28 in (0, 0o10)     # the type of file, where Unix has written it
                yield (member.filename.replace('\\', '/'), member.file_size, ordinary, member.is_dir(),
                       lambda member=member: archive.read(member))
        return
    for member in tar:
        yield (member.name, member.size, member.isreg() and not member.issparse(), member.isdir(),
               lambda member=member: tar.extractfile(member).read())


def checked_path(name):
    if name.startswith('/') or '..' in name.split('/'):
        raise Refused(f'the archive holds the path {name[:100]!r}; expected paths inside the folder hw7')
    return '/'.join(part for part in name.split('/') if part not in ('', '.'))
