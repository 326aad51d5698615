"""The grader as a teacher uses it: what it reads, what it says, a whole class, Gradescope."""

import bz2
import concurrent.futures
import csv
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib

import pytest
from grading import (
    AUTOGRADER,
    GRADE,
    LONG,
    LOOPS,
    POINTS,
    ROOT,
    Grader,
    grade,
    graded_here,
    open_folder,
    relu,
    scores,
    submissions,
    without,
)

SOURCE = LOOPS.encode()
GOOD = ('hw7/cnn_lenet.py', SOURCE)


@pytest.fixture(scope='module')
def one():
    with open_folder() as folder:
        yield Grader(folder)


@pytest.mark.parametrize('name', ['cnn_lenet.py', 'tests/submissions/loops.py'])
def test_a_right_solution_gets_all_points(one, tmp_path, name):
    process = one.run(ROOT / name, '--gradescope', str(tmp_path / 'results.json'))
    assert scores(process) == POINTS
    assert json.loads(process.stdout.splitlines()[-1])['scoreboard'] == [73]
    assert 'total                           73 of  73' in process.stdout
    assert process.left == []
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['score'] == 73
    assert [(test['score'], test['max_score']) for test in results['tests']] == [(n, n) for n in POINTS.values()]
    assert os.listdir(tmp_path) == ['results.json']


def test_a_seed_repeats_the_inputs(one):
    wrong = relu("    return dict(input)")
    first, other = (graded_here(wrong, seed)[1] for seed in (5, 6))
    assert one.source(wrong, '--seed', '5').stdout.startswith(first)
    assert first.splitlines()[1:] != other.splitlines()[1:]


def test_importing_the_grader_does_nothing(tmp_path):
    script = ('import os, signal, sys\nbefore = signal.getsignal(signal.SIGTERM), sys.dont_write_bytecode\n'
              f'sys.path.insert(0, {str(AUTOGRADER)!r})\nimport grade\nassert os.listdir() == []\n'
              'assert before == (signal.getsignal(signal.SIGTERM), sys.dont_write_bytecode)\nprint(grade.QUESTIONS)')
    process = subprocess.run([sys.executable, '-B', '-c', script], cwd=tmp_path, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, '')
    assert {question: points for question, (_, points) in eval(process.stdout).items()} == POINTS


def test_the_readmes_show_the_points_of_the_grader():
    for name in ('README.md', 'student-README.md'):
        rows = [line.split('|') for line in (AUTOGRADER / name).read_text().splitlines() if line.startswith('| Q')]
        assert not rows or {row[1].strip(): int(row[3]) for row in rows} == POINTS


@pytest.mark.parametrize('flags, words', [
    (['missing.tar'], 'missing.tar: no such file'), (['.', '--seed', 'x'], "'x' is not a whole number"),
    (['.', '--timeout', '0'], "'0' is not a whole number"), ([], 'SUBMISSION'),
    ([str(GRADE), '--csv', 'scores.csv'], 'is not a folder'), (['.', '--csv', 'x', '-A'], 'a single submission')])
def test_a_wrong_call_is_one_line_of_error(capsys, flags, words):
    with pytest.raises(SystemExit) as stop:
        grade.main(flags)
    printed = capsys.readouterr()
    assert stop.value.code == 2 and printed.out == ''
    assert words in printed.err.splitlines()[-1]


@pytest.mark.parametrize('name', ['missing/results.json', 'folder'])
def test_results_that_cannot_be_written_are_one_line_of_error(one, tmp_path, name):
    (tmp_path / 'folder').mkdir()
    process = one.source(LOOPS, '--gradescope', str(tmp_path / name))
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith('grade.py: error: ') and 'Traceback' not in process.stderr
    assert os.listdir(tmp_path) == ['folder']


# ---------------------------------------------------------------------------------------------------------------
# What students hand in
# ---------------------------------------------------------------------------------------------------------------


def member(name, content=b'', **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, io.BytesIO(content)


def tar_bytes(*members, mode='w', **settings):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, **settings) as tar:
        for info, content in members:
            tar.addfile(info, content)
    return buffer.getvalue()


def zip_bytes(*named):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in named:
            archive.writestr(name, content)
    return buffer.getvalue()


def tree(*named):
    return tar_bytes(member('hw7', type=tarfile.DIRTYPE), *(member(name, content) for name, content in named))


# Name of the file, or None for the content of a folder: what is in it.
ACCEPTED = {
    'a tar as the handout wants it': ('hw7.tar', tree(GOOD)),
    'a tar with ./ before the names': ('hw7.tar', tree(('./hw7/cnn_lenet.py', SOURCE))),
    'a tar without the folder': ('hw7.tar', tree(('cnn_lenet.py', SOURCE))),
    'a compressed tar': ('hw7.tar.gz', tar_bytes(member(*GOOD), mode='w:gz')),
    'a compressed tar of another name': ('hw7.tar', bz2.compress(tree(GOOD))),
    'an old tar': ('hw7.tar', tar_bytes(member(*GOOD), format=tarfile.GNU_FORMAT)),
    'a tar with more in it': ('hw7.tar', tree(GOOD, ('hw7/._cnn_lenet.py', b'\0'), ('hw7/notes.txt', b''),
                                              ('hw7/old/cnn_lenet.py', b'broken('))),
    'the folder of the handout': ('hw7.tar', tree(('hw7-handout/cnn_lenet.py', SOURCE))),
    'a folder in the folder': ('hw7.tar', tree(('hw7/hw7/cnn_lenet.py', SOURCE), ('hw7/hw7/helper.py', b''))),
    'a zip': ('hw7.zip', zip_bytes(GOOD, ('__MACOSX/hw7/cnn_lenet.py', b'\0'))),
    'a zip of another name': ('hw7.tar', zip_bytes(('cnn_lenet.py', SOURCE))),
    'a folder': (None, {'cnn_lenet.py': SOURCE}),
    'a folder with the folder': (None, {'hw7/cnn_lenet.py': SOURCE, 'hw7/.git/cnn_lenet.py': b'broken('}),
    'a folder with a tar': (None, {'hw7.tar': tree(GOOD)}),
    'a folder with a zip and more': (None, {'hw7.zip': zip_bytes(GOOD), 'metadata.txt': b''}),
    'a tar with a deep folder': ('hw7.tar', tree(GOOD, ('hw7/' + 'x/' * 1500 + 'x.py', b''))),
    'a file of another name': ('hw7_smith.py', SOURCE),
}

LINK = {'type': tarfile.SYMTYPE, 'linkname': '/etc/passwd'}
# As above, and a part of the one line that says why it is not graded.
REFUSED = {
    'an absolute path': ('hw7.tar', tree(GOOD, ('/etc/cnn_lenet.py', SOURCE)), 'expected paths inside'),
    'a path out of the folder': ('hw7.tar', tree(GOOD, ('hw7/../../x', b'x')), 'expected paths inside'),
    'a path out of a zip': ('hw7.zip', zip_bytes(GOOD, ('../x', b'x')), 'expected paths inside'),
    'a symbolic link': ('hw7.tar', tar_bytes(member('hw7/cnn_lenet.py', **LINK)), 'link'),
    'a hard link': ('hw7.tar', tar_bytes(member(*GOOD), member('hw7/x', **{**LINK, 'type': tarfile.LNKTYPE})), 'link'),
    'a device': ('hw7.tar', tar_bytes(member(*GOOD), member('x', type=tarfile.CHRTYPE, devmajor=1, devminor=5)),
                 'device'),
    'a pipe': ('hw7.tar', tar_bytes(member(*GOOD), member('hw7/x', type=tarfile.FIFOTYPE)), 'device'),
    'two copies': ('hw7.tar', tree(GOOD, ('cnn_lenet.py', SOURCE)), '2 files cnn_lenet.py'),
    'two copies elsewhere': ('hw7.zip', zip_bytes(('a/cnn_lenet.py', SOURCE), ('b/cnn_lenet.py', SOURCE)),
                             '2 files cnn_lenet.py'),
    'the same name twice': ('hw7.tar', tree(GOOD, GOOD), '2 files cnn_lenet.py'),
    'none': ('hw7.tar', tree(('hw7/other.py', SOURCE)), '0 files cnn_lenet.py'),
    'an empty folder': (None, {'notes.txt': b''}, '0 files cnn_lenet.py'),
    'a large source': ('hw7.tar', tree(('hw7/cnn_lenet.py', SOURCE + b'#' * 2 ** 20)), 'bytes; expected at most'),
    'a large file': ('cnn_lenet.py', SOURCE + b'#' * 2 ** 20, 'bytes; expected at most'),
    'too many files': ('hw7.tar', tree(GOOD, *((f'hw7/{i}', b'') for i in range(1000))), 'more than 1000 files'),
    'a bomb of zeros': ('hw7.tar', zlib.compressobj(9, wbits=31), 'more than 50 MB'),
    'a bomb of zeros in a zip': ('hw7.zip', zip_bytes(GOOD, ('zeros', bytes(60 * 2 ** 20))), 'more than 50 MB'),
    'an empty file': ('hw7.tar', b'', 'not a readable tar or zip file'),
    'no tar at all': ('hw7.tar', b'no tar at all' * 100, 'not a readable tar or zip file'),
    'a damaged gzip': ('hw7.tar.gz', b'\x1f\x8b' + b'x' * 100, 'not a readable tar or zip file'),
    'a gzip damaged inside': ('hw7.tar.gz', b''.join((lambda x: (x[:60], b'\xff' * 40, x[100:]))(
        tar_bytes(member(*GOOD), mode='w:gz'))), 'not a readable tar or zip file'),
    'a zip cut short': ('hw7.zip', zip_bytes(GOOD)[:-30], 'not a readable tar or zip file'),
    'a long chain of headers': ('hw7.tar', tar_bytes(*(
        member('x', b'6 a=b\n', type=b'x') for _ in range(3000)), member(*GOOD)), 'not a readable tar or zip file'),
    'a name with escapes': ('hw7.tar', tree(('/\x1b[2J\n.py', b'')), r'/\x1b[2J\n.py'),
}


def store(folder, name, content):
    """Put a submission into a folder. Returns its path."""
    if name is None:
        for path, part in content.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(part)
        return folder
    if not isinstance(content, bytes):                 # a compressor: 64 MB of zeros in a tar
        info = tarfile.TarInfo('hw7/zeros')
        info.size = 2 ** 26
        parts = [content.compress(info.tobuf()), *(content.compress(bytes(2 ** 20)) for _ in range(64))]
        content = b''.join([*parts, content.flush()])
        assert len(content) < 2 ** 18
    (folder / name).write_bytes(content)
    return folder / name


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
    """All of the above in files: dict, name -> path."""
    paths = {}
    for name, (file, content, *_) in {**ACCEPTED, **REFUSED}.items():
        paths[name] = store(tmp_path_factory.mktemp('stored'), file, content)
    return paths


def flags_for(path):
    return grade.get_parser().parse_args([str(path), '--timeout', str(LONG)])


@pytest.fixture(scope='module')
def read(stored, tmp_path_factory):
    """What the grader makes of them: dict, name -> files, or Result if they are refused."""
    def read_one(name):
        if name in REFUSED:
            return grade.grade(stored[name], 0, flags_for(stored[name]))
        return submissions.read_submission(stored[name], time.monotonic() + LONG, flags_for(stored[name]))

    temporary = tmp_path_factory.mktemp('temporary')
    with pytest.MonkeyPatch.context() as patch, concurrent.futures.ThreadPoolExecutor(3) as pool:
        patch.setenv('TMPDIR', str(temporary))
        done = dict(zip(stored, pool.map(read_one, stored)))
    assert list(temporary.iterdir()) == []
    return done


@pytest.mark.parametrize('name', ACCEPTED)
def test_whatever_holds_one_cnn_lenet_is_read(read, name):
    assert read[name]['cnn_lenet.py'] == SOURCE


def test_what_is_read_is_graded(one, stored):
    paths = [stored[name] for name in ('a tar as the handout wants it', 'a zip', 'a folder with a tar')]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert list(map(scores, pool.map(one.run, paths))) == [POINTS] * 3


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_refused_gets_no_points_and_one_line_saying_why(read, name):
    first, *_ = grade.report(read[name], 0).splitlines()
    assert first.startswith('not graded: ') and REFUSED[name][2] in first and '\x1b' not in first
    assert {question: score for question, (score, _) in read[name].scores.items()} == without(*POINTS)


def test_links_and_pipes_in_a_folder_are_refused_at_once(one, tmp_path):
    (tmp_path / 'cnn_lenet.py').symlink_to(ROOT / 'cnn_lenet.py')
    process = one.run(tmp_path)
    assert scores(process) == without(*POINTS) and 'link' in process.stdout.splitlines()[0]
    (tmp_path / 'cnn_lenet.py').unlink()
    os.mkfifo(tmp_path / 'cnn_lenet.py')
    process = one.run(tmp_path)
    assert scores(process) == without(*POINTS) and 'no ordinary file' in process.stdout.splitlines()[0]


def test_an_archive_that_takes_for_ever_is_given_up(one, tmp_path):
    """A header of many digits: whether it is the time or the reader that ends it, there is a score and a reason."""
    digits = b'hdrcharset=' + b'1' * 200_000
    path = store(tmp_path, 'hw7.tar', tar_bytes(member('x', b'1' * 200_000 + b' ' + digits, type=b'x'), member(*GOOD)))
    process = one.run(path, '--timeout', '1')
    assert scores(process) == without(*POINTS) and process.stdout.startswith('not graded: ')
    assert 'Traceback' not in process.stdout + process.stderr
    assert process.left == []


# ---------------------------------------------------------------------------------------------------------------
# A class, and Gradescope
# ---------------------------------------------------------------------------------------------------------------


def test_a_class_is_graded_into_a_table(one, tmp_path):
    """Bad ones do not end it; the table has a line for each."""
    submissions = tmp_path / 'submissions'
    (submissions / 'adams').mkdir(parents=True)
    (submissions / 'adams' / 'cnn_lenet.py').write_text(relu("    return dict(input)"))
    (submissions / 'baker.tar').write_bytes(tree(GOOD))
    (submissions / 'clark.py').write_text('import os\nos.kill(os.getpid(), 9)\n')
    (submissions / 'davis.tar.gz').write_bytes(b'\x1f\x8b' + b'x' * 100)
    (submissions / 'e\nf').mkdir()
    (submissions / '.DS_Store').write_text('')
    process = subprocess.run([*one.program, str(submissions), '--csv', str(tmp_path / 'scores.csv')],
                             capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    with open(tmp_path / 'scores.csv', newline='') as file:
        head, *rows = csv.reader(file)
    assert head == ['submission', *POINTS, 'total', 'remark']
    assert [(row[0], row[8]) for row in rows] == [('adams', '70'), ('baker.tar', '73'), ('clark.py', '0'),
                                                  ('davis.tar.gz', '0'), ('e f', '0')]
    assert [row[9].split(' is ')[0] for row in rows[:2]] == ["Q2: the result['data']", '']
    assert 'signal 9' in rows[2][9] and 'not a readable' in rows[3][9] and '0 files' in rows[4][9]
    assert [line for line in process.stderr.splitlines() if 'of 5' in line][1] == '2 of 5  baker.tar  73'
    assert sorted(os.listdir(tmp_path)) == ['scores.csv', 'submissions']


def test_gradescope_takes_the_zip_as_it_is(tmp_path):
    """Its container has the zip unpacked in source/, the submission in submission/, and an empty results/."""
    project, root = tmp_path / 'project', tmp_path / 'autograder'
    shutil.copytree(AUTOGRADER, project / 'autograder', ignore=shutil.ignore_patterns('*.tar', '*.zip', '__pycache__'))
    shutil.copy(ROOT / 'mnist_all.mat', project)
    subprocess.run(['make', '-C', str(project / 'autograder'), f'PYTHON={sys.executable}', 'gradescope.zip'],
                   check=True, capture_output=True)
    with zipfile.ZipFile(project / 'autograder' / 'gradescope.zip') as archive:
        archive.extractall(root / 'source')
        for name in ('setup.sh', 'run_autograder'):
            assert archive.getinfo(name).external_attr >> 16 & stat.S_IXUSR
    (root / 'submission').mkdir()
    (root / 'results').mkdir()
    loading = 'from scipy.io import loadmat\nassert loadmat("mnist_all.mat")\n'
    (root / 'submission' / 'hw7.tar').write_bytes(tree(('hw7/cnn_lenet.py', (loading + LOOPS).encode())))
    process = subprocess.run(['bash', str(root / 'source' / 'run_autograder')], capture_output=True, text=True,
                             env={**os.environ, 'AUTOGRADER_ROOT': str(root), 'PYTHON': sys.executable})
    assert process.returncode == 0, process.stderr
    results = json.loads((root / 'results' / 'results.json').read_text())
    assert results['score'] == 73 and len(results['tests']) == 7
    assert os.listdir(root / 'results') == ['results.json']
    assert not list(root.rglob('__pycache__'))
