"""The grader as a teacher uses it: what it reads, what it says, a whole class, Gradescope."""

import bz2
import concurrent.futures
import csv
import io
import json
import os
import shutil
import signal
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
    NOBODY,
    POINTS,
    ROOT,
    Grader,
    archive,
    changed,
    grade,
    graded_here,
    needs_posix,
    open_folder,
    scores,
    submissions,
    with_function,
    without,
)

needs_posix()

SOURCE = LOOPS.encode()
GOOD = ('hw7/cnn_lenet.py', SOURCE)
QUIET = changed("    print('pooling', h_out, w_out)\n", '')
ADAMS = with_function('relu_forward', '    return dict(input)', QUIET)


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
    assert [(test['number'], test['status'], test['score'], test['max_score']) for test in results['tests']] == [
        (question, 'passed', points, points) for question, points in POINTS.items()]
    assert os.listdir(tmp_path) == ['results.json']


def test_a_seed_repeats_the_inputs(one):
    first, other = (graded_here(ADAMS, seed)[1] for seed in (5, 6))
    assert one.source(ADAMS, '--seed', '5').stdout.startswith(first)
    assert first.splitlines()[1:] != other.splitlines()[1:]


def test_importing_the_grader_does_nothing(tmp_path):
    script = ('import os, signal, sys\nbefore = signal.getsignal(signal.SIGTERM), sys.dont_write_bytecode\n'
              f'sys.path.insert(0, {str(AUTOGRADER)!r})\nimport grade\nassert os.listdir() == []\n'
              'assert before == (signal.getsignal(signal.SIGTERM), sys.dont_write_bytecode)\nprint(grade.QUESTIONS)')
    process = subprocess.run([sys.executable, '-B', '-c', script], cwd=tmp_path, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, '')
    assert {question: points for question, (_, points) in eval(process.stdout).items()} == POINTS


def test_the_readme_shows_the_points_of_the_grader():
    assert f'set {sum(POINTS.values())} points' in (AUTOGRADER / 'README.md').read_text()


def test_a_report_appears_once_in_gradescopes_results(one, tmp_path):
    one.source(ADAMS, '--gradescope', str(tmp_path / 'results.json'))
    results = json.loads((tmp_path / 'results.json').read_text())
    assert [test['number'] for test in results['tests'] if test['status'] == 'failed'] == ['Q2']
    assert json.dumps(results).count("the result['data'] is wrong") == 3            # cases
    one.source('broken(', '--gradescope', str(tmp_path / 'results.json'))
    assert (tmp_path / 'results.json').read_text().count('SyntaxError') == 1


def test_what_is_missing_on_this_system_is_for_the_teacher(one):
    assert one.source(LOOPS).stderr == ''


def test_a_reader_that_has_seen_enough_is_no_error(one, tmp_path):
    (tmp_path / 'cnn_lenet.py').write_text(LOOPS)
    with subprocess.Popen([*one.program, str(tmp_path), '--unconfined'], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b''


@pytest.mark.parametrize('flags, words', [
    (['missing.tar'], 'missing.tar: no such file'), (['.', '--seed', 'x'], "'x' is not a whole number"),
    (['.', '--timeout', '0'], "'0' is not a whole number"), ([], 'SUBMISSION'),
    ([str(GRADE), '--csv', 'scores.csv'], 'is not a folder'), (['.', '--csv', 'x', '-A'], 'a single submission'),
    (['.', '--only', 'adams'], 'they need --csv'), (['.', '--jobs', '1.5'], "'1.5' is not a whole number")])
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
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as file:
        for name, content in named:
            file.writestr(name, content)
    return buffer.getvalue()


def tree(*named):
    return tar_bytes(member('hw7', type=tarfile.DIRTYPE), *(member(name, content) for name, content in named))


LINK = {'type': tarfile.SYMTYPE, 'linkname': '/etc/passwd'}
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
    'a tar without an ending': ('hw7', tree(GOOD)),
    'a hard link': ('hw7.tar', tar_bytes(member(*GOOD), member('hw7/x', **{**LINK, 'type': tarfile.LNKTYPE}))),
    'a device': ('hw7.tar', tar_bytes(member(*GOOD), member('x', type=tarfile.CHRTYPE, devmajor=1, devminor=5))),
    'a pipe': ('hw7.tar', tar_bytes(member(*GOOD), member('hw7/x', type=tarfile.FIFOTYPE))),
}

# As above, and a part of the one line that says why it is not graded.
REFUSED = {
    'an absolute path': ('hw7.tar', tree(GOOD, ('/etc/cnn_lenet.py', SOURCE)), 'expected paths inside'),
    'a path out of the folder': ('hw7.tar', tree(GOOD, ('hw7/../../x', b'x')), 'expected paths inside'),
    'a path out of a zip': ('hw7.zip', zip_bytes(GOOD, ('../x', b'x')), 'expected paths inside'),
    'a symbolic link': ('hw7.tar', tar_bytes(member('hw7/cnn_lenet.py', **LINK)), 'link'),
    'two copies': ('hw7.tar', tree(GOOD, ('cnn_lenet.py', SOURCE)), '2 files cnn_lenet.py'),
    'two copies elsewhere': ('hw7.zip', zip_bytes(('a/cnn_lenet.py', SOURCE), ('b/cnn_lenet.py', SOURCE)),
                             '2 files cnn_lenet.py'),
    'the same name twice': ('hw7.tar', tree(GOOD, GOOD), '2 files cnn_lenet.py'),
    'none': ('hw7.tar', tree(('hw7/other.py', SOURCE)), '0 files cnn_lenet.py; expected one. It holds hw7/other.py'),
    'archives': ('hw7.zip', zip_bytes(('a/hw7 (1).tar', tree(GOOD)), ('a/hw7 (2).tar', tree(GOOD))),
                 'It holds a/hw7 (1).tar, a/hw7 (2).tar; a/hw7 (1).tar is an archive inside'),
    'an archive in an archive': ('hw7.zip', zip_bytes(('hw7 (2).tar', tree(GOOD))), 'hw7 (2).tar is an archive inside'),
    'a folder of archives': (None, {'a.tar': tree(GOOD), 'b.tar': tree(GOOD)}, 'a.tar is an archive inside'),
    'an archive of another kind': ('hw7.rar', b'Rar!', 'hw7.rar is an archive that is not read'),
    'many others': (None, {f'{i}.py': b'' for i in range(8)}, 'It holds 0.py, 1.py, 2.py, 3.py, 4.py and 3 more'),
    'an empty folder': (None, {}, 'It holds nothing'),
    'an empty tar': ('hw7.tar', tree(), 'It holds nothing'),
    'other capitals': ('hw7.zip', zip_bytes(('hw7/CNN_LeNet.py', SOURCE)), 'written in other capitals'),
    'a second download': ('hw7.zip', zip_bytes(('cnn_lenet (1).py', SOURCE)), 'cnn_lenet (1).py has another name'),
    'a notebook': ('hw7.tar', tree(('hw7/hw7.ipynb', b'{}')), 'hw7/hw7.ipynb is a notebook'),
    'a notebook alone': ('smith.ipynb', b'{}', 'smith.ipynb is a notebook'),
    'a renamed notebook': (None, {'cnn_lenet.py': b'{"cells": [], "nbformat": 4}'}, 'notebook that was renamed'),
    'Octave': ('hw7.tar', tree(('hw7/relu_forward.m', b'function')), 'is for Octave or MATLAB'),
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
    folder.mkdir(exist_ok=True)
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
        return archive.choose(submissions.handed_in(stored[name]))[1]

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


def test_a_folder_and_its_archives_are_read_alike(tmp_path):
    """An editor's hidden copies count nowhere."""
    named = [('hw7_smith/cnn_lenet.py', SOURCE), ('hw7_smith/.history/cnn_lenet.py', b'old'), ('.git/x.py', b'')]
    paths = [store(tmp_path / name, file, content) for name, file, content in (
        ('folder', None, dict(named)), ('tar', 'hw7.tar', tree(*named)), ('zip', 'hw7.zip', zip_bytes(*named)))]
    for path in paths:
        assert archive.choose(submissions.handed_in(path))[1] == {'cnn_lenet.py': SOURCE}


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


@pytest.fixture
def submitted(tmp_path):
    """A folder with the submissions of a class: one that is right, one that is not, some that cannot be graded."""
    folder = tmp_path / 'submissions'
    store(folder, 'baker.tar', tree(GOOD))
    store(folder, None, {'adams/cnn_lenet.py': ADAMS.encode(), '.DS_Store': b'', 'README.txt': b'',
                         'submission_metadata.yml': b'', 'e\nf/notes.txt': b'', '=davis.py': b'x = nothing\n'})
    store(folder, 'clark.py', b'import os\nos.kill(os.getpid(), 9)\n')
    return folder


def grade_class(one, folder, table, *flags, **settings):
    process = subprocess.run([*one.program, str(folder), '--csv', str(table), '--unconfined', *flags],
                             text=True, capture_output=True, **settings)
    assert process.returncode == 0, process.stderr
    return process


def rows_of(text):
    """A table: dict, name -> row."""
    head, *rows = csv.reader(io.StringIO(text))
    assert head == ['submission', *POINTS, 'total', 'seed', 'remark'] and len({row[0] for row in rows}) == len(rows)
    return {row[0]: row for row in rows}


def test_a_class_is_graded_into_a_table(one, submitted):
    """Bad ones do not end it; the table, though it lies among them, has a line for each."""
    process = grade_class(one, submitted, submitted / 'scores.csv', '--seed', '5',
                          '--feedback', str(submitted / 'feedback'))
    rows = rows_of((submitted / 'scores.csv').read_text())
    assert {name: row[8:10] for name, row in rows.items()} == {
        "'=davis.py": ['0', '5'], 'adams': ['70', '5'], 'baker.tar': ['73', '5'], 'clark.py': ['0', '5'],
        'e f': ['0', '5']}
    assert rows['adams'][10].startswith("Q2: the result['data'] is wrong") and rows['baker.tar'][10] == ''
    assert 'signal 9' in rows['clark.py'][10] and 'It holds notes.txt' in rows['e f'][10]
    assert "name 'nothing' is not defined (line 1 of cnn_lenet.py: x = nothing)" in rows["'=davis.py"][10]
    progress = [line for line in process.stderr.splitlines() if ' of 5  ' in line]
    assert [line.split()[0] for line in progress] == list('12345') and '  baker.tar  73' in process.stderr
    assert sorted(os.listdir(submitted / 'feedback')) == ['=davis.py.txt', 'adams.txt', 'baker.tar.txt',
                                                          'clark.py.txt', 'e\nf.txt']
    assert (submitted / 'feedback' / 'adams.txt').read_text() == graded_here(ADAMS, 5)[1] + '\n'


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL], ids=['SIGTERM', 'SIGKILL'])
def test_the_same_command_goes_on_where_it_stopped(one, submitted, tmp_path, number):
    store(submitted, 'z.py', (LOOPS + 'import time\ntime.sleep(1000)\n').encode())
    table, temporary = tmp_path / 'scores.csv', tmp_path / 'temporary'
    temporary.mkdir()
    with subprocess.Popen([*one.program, str(submitted), '--csv', str(table), '--unconfined', '--jobs', '2'],
                          stderr=subprocess.PIPE, text=True, env={**os.environ, 'TMPDIR': str(temporary)}) as process:
        assert any(line.startswith('5 of 6') for line in process.stderr)
        process.send_signal(number)
        assert process.wait(LONG) == (143 if number == signal.SIGTERM else -9)
    if number == signal.SIGTERM:
        assert list(temporary.iterdir()) == []
    before = table.read_text()
    assert len(rows_of(before)) == 5
    (submitted / 'z.py').write_text(LOOPS)
    with open(table, 'a') as file:
        file.write('z.py,20,3')                        # the disk was full
    process = grade_class(one, submitted, table)
    assert table.read_text().startswith(before) and rows_of(table.read_text())['z.py'][8] == '73'
    assert [line for line in process.stderr.splitlines() if ' of ' in line] == ['6 of 6  z.py  73']


def test_one_submission_is_graded_again_and_its_row_replaced(one, submitted, tmp_path):
    grade_class(one, submitted, tmp_path / 'real.csv', '--seed', '5')
    before = rows_of((tmp_path / 'real.csv').read_text())
    (submitted / '=davis.py').write_text(LOOPS)
    (tmp_path / 'scores.csv').symlink_to('real.csv')
    (tmp_path / 'real.csv').chmod(0o600)
    grade_class(one, submitted, tmp_path / 'scores.csv', '--only', '=davis.py', '--seed', '6', '--jobs', '1')
    after = rows_of((tmp_path / 'real.csv').read_text())
    assert after == {**before, "'=davis.py": ["'=davis.py", *map(str, POINTS.values()), '73', '6', '']}
    assert sorted(os.listdir(tmp_path)) == ['real.csv', 'scores.csv', 'submissions']
    assert (tmp_path / 'scores.csv').is_symlink() and (tmp_path / 'real.csv').stat().st_mode & 0o777 == 0o600


def test_a_table_may_be_a_device(one, submitted, tmp_path):
    """By a link, so that no device is at stake."""
    (tmp_path / 'scores.csv').symlink_to('/dev/stdout')
    shutil.rmtree(submitted / 'e\nf')
    assert len(rows_of(grade_class(one, submitted, tmp_path / 'scores.csv').stdout)) == 4
    assert os.readlink(tmp_path / 'scores.csv') == '/dev/stdout'


@pytest.mark.parametrize('name, content, words', [
    ('missing/scores.csv', None, 'No such file'), ('submissions', None, 'Is a directory'),
    ('names.csv', 'name,total\nadams,70\n', 'is no table of scores')])
def test_a_table_that_cannot_be_written_is_an_error_before_the_first_submission(one, submitted, tmp_path, name, content,
                                                                                words):
    if content:
        (tmp_path / name).write_text(content)
    process = subprocess.run([*one.program, str(submitted), '--csv', str(tmp_path / name), '--unconfined'],
                             capture_output=True, text=True)
    assert process.returncode == 1 and words in process.stderr
    assert process.stderr.startswith('grade.py: error: ') and len(process.stderr.splitlines()) == 1
    assert content is None or (tmp_path / name).read_text() == content


@pytest.mark.parametrize('mode', [0o000, 0o644])
@pytest.mark.parametrize('where', ['submission', 'submission/data'])
def test_a_folder_that_cannot_be_read_is_refused(mode, where):
    """Root reads everything: then another user looks."""
    user = os.geteuid()
    with open_folder() as folder:
        store(folder, None, {'submission/cnn_lenet.py': SOURCE, 'submission/data/x': b''})
        (folder / where).chmod(mode)
        try:
            os.seteuid(user or NOBODY)
            result = grade.grade(folder / 'submission', 0, flags_for(folder))
        finally:
            os.seteuid(user)
            (folder / where).chmod(0o755)
    assert 'cannot be read (Permission denied)' in result.problem


@pytest.mark.parametrize('flags', [[], ['--csv', 'scores.csv']], ids=['one', 'a class'])
def test_nothing_is_run_where_nothing_confines_it(monkeypatch, capsys, submitted, flags):
    tier = grade.sandbox.Tier(grade.sandbox.LIMITS_ONLY, [], 0, ['bubblewrap is not installed'])
    monkeypatch.setattr(grade.sandbox, 'tier', lambda: tier)
    with pytest.raises(SystemExit) as stop:
        grade.main([str(submitted), *flags])
    last = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2 and 'bubblewrap is not installed' in last and '--unconfined' in last


def test_after_the_total_what_was_graded_counts(one):
    source = with_function('pooling_layer_backward', '    while True: pass')
    start = time.monotonic()
    assert scores(one.source(source, '--total', '10')) == without('Q4', 'Q5', 'Q6', 'Q7')
    assert time.monotonic() - start < LONG


class Answering(submissions.Submission):
    """A submission that gives the same answer to everything, and its cage."""

    def __init__(self, answer):
        self.answer, self.cage, self.printed = answer, self, False

    def begin(self, deadline):
        self.cage = self

    def ask(self, request, deadline, blobs):
        return self.answer, []

    def close(self, deadline):
        pass


def feedback_on(answer, questions=('Q7',)):
    submission = Answering(answer)
    graded = [grade.grade_question(question, submission, 0, LONG, time.monotonic() + LONG) for question in questions]
    assert {score for score, _ in graded} == {0}
    return '\n'.join(line for _, feedback in graded for line in feedback)


@pytest.mark.parametrize('answer', [
    {'error': 'x' * 10 ** 6, 'line': 'x' * 10 ** 6}, {'error': 'x', 'line': 10 ** 5000},
    {'error': ['x'] * 10 ** 6}, {'result': ['other', 'x' * 10 ** 6], 'changed': [0, *['x' * 10 ** 4] * 100]},
    {'result': ['number', 1], 'changed': 'x' * 10 ** 6, 'printed': 'x' * 10 ** 6}], ids=range(5))
def test_whatever_a_submission_says_its_report_is_short(answer):
    assert len(feedback_on(answer)) < 5000


@pytest.mark.parametrize('result', [['list', []], ['list', [['dict', []]]], ['dict', []], ['number', 0], ['list', [0]]],
                         ids=str)
def test_an_answer_that_a_submission_makes_up_is_wrong(result):
    """It can reach the loop that it is called from, and send what it likes."""
    assert feedback_on({'result': result}, POINTS).count('WRONG') == 27


def test_suppressed_output_is_mentioned_once():
    assert feedback_on({'result': ['number', 1], 'printed': True}, ('Q2', 'Q7')).count('prints is not shown') == 1
    assert 'prints is not shown' not in feedback_on({'result': ['number', 1]})


@pytest.mark.parametrize('source, words', [
    ('def f(:\n', 'SyntaxError: invalid syntax (line 1 of cnn_lenet.py: def f(:)'),
    ('x = (\n', "SyntaxError: '(' was never closed (line 1 of cnn_lenet.py: x = ()"),
    ('import names\n', 'SyntaxError: invalid syntax (names.py, line 1) (line 1 of cnn_lenet.py: import names)'),
    ('import pdb\npdb.set_trace()\nx = 1\n', 'a debugger was left in (pdb or breakpoint()) (line ')])
def test_an_error_says_its_line_once(one, tmp_path, source, words):
    (tmp_path / 'cnn_lenet.py').write_text(source)
    (tmp_path / 'names.py').write_text('def f(:\n')
    process = one.run(tmp_path)
    assert process.stdout.splitlines()[0].startswith(f'not graded: import of cnn_lenet.py: {words}')


@pytest.mark.skipif(shutil.which('make') is None, reason='make is not installed')
def test_gradescope_takes_the_zip_as_it_is(tmp_path):
    """Its container has the zip unpacked in source/, the submission in submission/, and an empty results/."""
    project, root = tmp_path / 'project', tmp_path / 'autograder'
    shutil.copytree(AUTOGRADER, project / 'autograder', ignore=shutil.ignore_patterns('*.tar', '*.zip', '__pycache__'))
    shutil.copy(ROOT / 'mnist_all.mat', project)
    subprocess.run(['make', '-C', str(project / 'autograder'), f'PYTHON={sys.executable}', 'gradescope.zip'],
                   check=True, capture_output=True)
    with zipfile.ZipFile(project / 'autograder' / 'gradescope.zip') as file:
        file.extractall(root / 'source')
        for name in ('setup.sh', 'run_autograder'):
            assert file.getinfo(name).external_attr >> 16 & stat.S_IXUSR
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
