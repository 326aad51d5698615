"""A submission's files: which of them count, and the job that gets them out of an archive.

cage.py runs this file in a cage of its own for an archive, as whatever a tar or zip is made of may take the program
that reads it any time and memory, or end it.
"""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

NAME = 'cnn_lenet.py'
MAX_SOURCE = 2 ** 20             # bytes of a cnn_lenet.py
MAX_BYTES = 50 * 2 ** 20         # bytes of all files, unpacked
MAX_FILES = 1000
COMPRESSED = {b'\x1f\x8b': gzip.open, b'BZh': bz2.open, b'\xfd7zXZ': lzma.open}
UNREAD = ('__pycache__', '__MACOSX')


def main(receive, send):
    """Send the files of the archive `archive` in this folder, each under its path from the one cnn_lenet.py."""
    request, _ = receive()
    try:
        with open('archive', 'rb') as file:
            content = file.read()
        if zipfile.is_zipfile(io.BytesIO(content)) and not is_tar(content):
            files = read_zip(content)
        else:
            files = read_tar(unpacked(content))
        chosen = beside_source(files, 'the archive')
        check_source(len(chosen[NAME]))
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
    sources = [path for path in files if path.split('/')[-1] == NAME and '__MACOSX' not in path.split('/')]
    usual = [path for path in sources if path in (NAME, f'hw7/{NAME}')]
    found = usual or sources
    if len(found) != 1:
        raise Refused(f'{where} holds {len(found)} files {NAME}; expected one')
    folder = found[0][:-len(NAME)]
    return {path[len(folder):]: content for path, content in files.items()
            if path.startswith(folder) and is_read(path[len(folder):])}


def is_read(path):
    """Hidden files, what programs leave behind, and paths that no student has are not taken along."""
    parts = path.split('/')
    return len(path) <= 250 and len(parts) <= 20 and not any(part.startswith('.') or part in UNREAD for part in parts)


def check_source(size):
    if size > MAX_SOURCE:
        raise Refused(f'{NAME} has {size} bytes; expected at most {MAX_SOURCE}')


def is_tar(content):
    return content[257:262] == b'ustar'


def unpacked(content):
    """The tar's bytes, decompressed if it is compressed."""
    for magic, opener in COMPRESSED.items():
        if content.startswith(magic):
            with opener(io.BytesIO(content)) as file:
                content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise Refused(f'the archive unpacks to more than {MAX_BYTES // 2 ** 20} MB')
    return content


def read_tar(content):
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode='r:') as tar:
        for count, member in enumerate(tar):
            check_count(count)
            path = checked_path(member.name)
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise Refused(f'{member.name[:100]!r} in the archive is a link, a device or the like; expected '
                              'ordinary files')
            if member.isreg():
                add(files, path, tar.extractfile(member).read())
    return files


def read_zip(content):
    files, size = {}, 0
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for count, member in enumerate(archive.infolist()):
            check_count(count)
            path = checked_path(member.filename)
            if member.external_attr >> 28 not in (0, 0o4, 0o10):     # the type of file, where Unix has written it
                raise Refused(f'{member.filename[:100]!r} in the archive is a link, a device or the like; expected '
                              'ordinary files')
            size += member.file_size
            if size > MAX_BYTES:
                raise Refused(f'the archive unpacks to more than {MAX_BYTES // 2 ** 20} MB')
            if not member.is_dir():
                add(files, path, archive.read(member))
    return files


def check_count(count):
    if count >= MAX_FILES:
        raise Refused(f'the archive holds more than {MAX_FILES} files')


def checked_path(name):
    if name.startswith('/') or '..' in name.split('/'):
        raise Refused(f'the archive holds the path {name[:100]!r}; expected paths inside the folder hw7')
    return '/'.join(part for part in name.split('/') if part not in ('', '.'))


def add(files, path, content):
    if path in files and path.split('/')[-1] == NAME:
        raise Refused(f'the archive holds 2 files {NAME} of the same path; expected one')
    files[path] = content
