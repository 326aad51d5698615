"""The grader as a teacher uses it: what it reads, what it says, a whole class, Gradescope."""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import types
import zipfile

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
    UncagedSubmission,
    archive,
    cage,
    changed,
    flags_for,
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
TOO_EARLY = changed('def sgd_momentum', 'input()\ndef sgd_momentum').encode()


@pytest.fixture(scope='module')
def one():
    with open_folder() as folder:
        yield Grader(folder)


class SubmissionHere(UncagedSubmission):
    """A submission that nothing confines."""

    def __init__(self, path, functions, flags):
        self.source, files = archive.choose(submissions.handed_in(path))
        super().__init__(files['cnn_lenet.py'].decode())
        self.warning = None


@pytest.fixture
def run_here(monkeypatch, capsys):
    """The grader in this process, with submissions that nothing confines: (exit status, stdout, stderr)."""
    def run(*flags):
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with monkeypatch.context() as patch:
            patch.setattr(submissions, 'Submission', SubmissionHere)
            patch.setattr(grade.sandbox, 'tier', lambda: grade.sandbox.Tier(grade.sandbox.BUBBLEWRAP, [], 0, []))
            try:
                status = grade.main(list(map(str, flags)))
            except SystemExit as stop:
                status = stop.code
        for number, handler in handlers.items():
            signal.signal(number, handler)
        return status, *capsys.readouterr()
    return run


def said(process):
    """What a grader says on standard error, but for what this system lacks."""
    lines = process.stderr.splitlines() if isinstance(process.stderr, str) else process.stderr
    return [line for line in lines if 'missing on this system' not in line]


def test_a_right_solution_gets_all_points(one, tmp_path):
    process = one.run(ROOT / 'tests' / 'submissions' / 'loops.py', '--gradescope', str(tmp_path / 'results.json'))
    assert scores(process) == POINTS
    assert json.loads(process.stdout.splitlines()[-1])['scoreboard'] == [73]
    assert 'total                           73 of  73' in process.stdout
    assert process.stdout.count('prints is not shown') == 1
    assert process.left == said(process) == []
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['score'] == 73
    assert [(test['number'], test['status'], test['score'], test['max_score']) for test in results['tests']] == [
        (question, 'passed', points, points) for question, points in POINTS.items()]
    assert os.listdir(tmp_path) == ['results.json']


def test_a_seed_repeats_the_inputs_and_errors_are_printed_where_only_ascii_can_be(one):
    source = changed("output['diff'] * (input['data'] > 0)", "output['diff']", with_function(
        'relu_forward', r"    raise ValueError('\ud800 \x1b[2J\x00 \u202e é')", QUIET))
    process = one.source(source, '--seed', '5', LC_ALL='C', PYTHONCOERCECLOCALE='0', PYTHONUTF8='0',
                         PYTHONIOENCODING='ascii')
    first, other = (graded_here(source, seed)[1] for seed in (5, 6))
    assert scores(process) == without('Q2', 'Q5') and said(process) == process.left == []
    assert first.replace('é', r'\xe9') in process.stdout and r'\ud800 \x1b[2J\x00 \u202e \xe9' in process.stdout
    assert first.splitlines()[2:] != other.splitlines()[2:]


def test_a_report_has_the_points_and_then_only_what_is_wrong():
    lines = graded_here(ADAMS)[1].splitlines()
    points = next(number for number, line in enumerate(lines) if line.startswith('total'))
    assert points == 10 and lines[points] == 'total                           70 of  73'
    assert lines[points + 2] == 'Q2  relu_forward: 0 of 3 cases are right' and 'max(0, x)' in lines[points + 3]
    assert [line.split()[0].split(']')[0] for line in lines[points + 4:]] == ['WRONG', "output['data'"] * 3
    assert 'expected 0 (row 0, column 0, channel 0 of image ' in lines[points + 5]
    assert lines[points + 5].endswith('); 500 of 1000 numbers differ')
    assert len(graded_here(QUIET)[1].splitlines()) == points + 1
    assert 'WRONG  input 1 x 1 x 500, batch 2, and 2 more\n           NameError' in graded_here(
        with_function('relu_backward', '    return missing', QUIET))[1]


@pytest.mark.parametrize('last, words', [('input()', 'EOFError: EOF when reading a line'),
                                         ('exit(0)', 'SystemExit: 0')])
def test_an_import_that_ends_early_behind_its_functions_is_a_warning_above_the_points(tmp_path, last, words):
    path = store(tmp_path, 'hw7_smith.py', f'{QUIET}\n{last}\n'.encode())
    result = grade.grade(path, 0, flags_for(path))
    warning = (f'importing ended early, but the seven functions are there and are graded: {words} '
               f'(line {len(QUIET.splitlines()) + 2} of cnn_lenet.py: {last})')
    assert grade.report(result, 0).splitlines()[2] == f'warning: {warning}'
    assert grade.total(result) == 73 and warning in grade.remark(result)
    assert warning in json.loads(grade.gradescope_results(result, 0))['output']


def test_the_points_are_the_handouts():
    assert {question: points for question, (_, points) in grade.QUESTIONS.items()} == POINTS
    assert f'set {sum(POINTS.values())} points' in (AUTOGRADER / 'README.md').read_text()


def test_a_report_appears_once_in_gradescopes_results(run_here, tmp_path):
    def results(path):
        run_here(path, '--gradescope', tmp_path / 'results.json')
        return json.loads((tmp_path / 'results.json').read_text())

    wrong = results(store(tmp_path, 'adams.py', ADAMS.encode()))
    assert [test['number'] for test in wrong['tests'] if test['status'] == 'failed'] == ['Q2']
    assert wrong['score'] == 70 and json.dumps(wrong).count("output['data'][") == 3               # cases
    refused = results(store(tmp_path / 'empty', None, {}))
    assert refused['score'] == 0 and json.dumps(refused).count('It holds nothing') == 1


def test_a_reader_that_has_seen_enough_is_no_error(one, tmp_path):
    with subprocess.Popen([*one.program, str(tmp_path), '--unconfined'], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        process.stdout.close()
        assert said(process) == []


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


def test_results_that_cannot_be_written_are_one_line_of_error(run_here, tmp_path):
    (tmp_path / 'folder').mkdir()
    status, *_ = run_here(store(tmp_path, 'hw7.py', SOURCE), '--gradescope', tmp_path / 'folder')
    assert status.startswith('grade.py: error: ') and '\n' not in status
    assert sorted(os.listdir(tmp_path)) == ['folder', 'hw7.py']


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


# Name of the file, or None for the content of a folder: what is in it.
ACCEPTED = {
    'a tar as the handout wants it': ('hw7.tar', tree(GOOD)),
    'a tar with ./ before the names': ('hw7.tar', tree(('./hw7/cnn_lenet.py', SOURCE))),
    'a tar without the folder': ('hw7.tar', tree(('cnn_lenet.py', SOURCE))),
    'a compressed tar': ('hw7.tar.gz', tar_bytes(member(*GOOD), mode='w:gz')),
    'a tar with more in it': ('hw7.tar', tree(GOOD, ('hw7/._cnn_lenet.py', b'\0'), ('hw7/notes.txt', b''),
                                              ('hw7/old/cnn_lenet.py', b'broken('))),
    'a folder in the folder': ('hw7.tar', tree(('hw7/hw7/cnn_lenet.py', SOURCE), ('hw7/hw7/helper.py', b''))),
    'a zip': ('hw7.zip', zip_bytes(GOOD, ('__MACOSX/hw7/cnn_lenet.py', b'\0'))),
    'a zip of another name': ('hw7.tar', zip_bytes(('cnn_lenet.py', SOURCE))),
    'a folder with the folder': (None, {'hw7/cnn_lenet.py': SOURCE, 'hw7/.git/cnn_lenet.py': b'broken('}),
    'a folder with a zip and more': (None, {'hw7.zip': zip_bytes(GOOD), 'metadata.txt': b''}),
    'a tar with a deep folder': ('hw7.tar', tree(GOOD, ('hw7/' + 'x/' * 1500 + 'x.py', b''))),
    'a file of another name': ('hw7_smith.py', SOURCE),
    'a tar without an ending': ('hw7', tree(GOOD)),
    'links and more beside it': ('hw7.tar', tar_bytes(
        member(*GOOD), member('hw7/x', type=tarfile.LNKTYPE, linkname='/etc/passwd'),
        member('y', type=tarfile.CHRTYPE, devmajor=1, devminor=5), member('z', type=tarfile.FIFOTYPE))),
}

# As above, and a part of the one line that says why it is not graded.
REFUSED = {
    'an absolute path': ('hw7.tar', tree(GOOD, ('/etc/cnn_lenet.py', SOURCE)), 'expected paths inside'),
    'a path out of the folder': ('hw7.tar', tree(GOOD, ('hw7/../../x', b'x')), 'expected paths inside'),
    'a link': ('hw7.tar', tar_bytes(member(GOOD[0], type=tarfile.SYMTYPE, linkname='/etc/passwd')), 'link'),
    'two copies': ('hw7.tar', tree(GOOD, ('cnn_lenet.py', SOURCE)), '2 files cnn_lenet.py'),
    'the same name twice': ('hw7.tar', tree(GOOD, GOOD), '2 files cnn_lenet.py'),
    'none': ('hw7.tar', tree(('hw7/other.py', SOURCE)), '0 files cnn_lenet.py; expected one. It holds hw7/other.py'),
    'archives': ('hw7.zip', zip_bytes(('a/hw7 (1).tar', tree(GOOD)), ('a/hw7 (2).tar', tree(GOOD))),
                 'It holds a/hw7 (1).tar, a/hw7 (2).tar; a/hw7 (1).tar is an archive inside'),
    'an archive in an archive': ('hw7.zip', zip_bytes(('hw7 (2).tar', tree(GOOD))), 'hw7 (2).tar is an archive inside'),
    'an archive of another kind': ('hw7.rar', b'Rar!', 'hw7.rar is an archive that is not read'),
    'many others': (None, {f'{i}.py': b'' for i in range(8)}, 'It holds 0.py, 1.py, 2.py, 3.py, 4.py and 3 more'),
    'an empty folder': (None, {}, 'It holds nothing'),
    'other capitals': ('hw7.zip', zip_bytes(('hw7/CNN_LeNet.py', SOURCE)), 'written in other capitals'),
    'a second download': ('hw7.zip', zip_bytes(('cnn_lenet (1).py', SOURCE)), 'cnn_lenet (1).py has another name'),
    'a notebook': ('hw7.tar', tree(('hw7/hw7.ipynb', b'{}')), 'hw7/hw7.ipynb is a notebook'),
    'a renamed notebook': (None, {'cnn_lenet.py': b'{"cells": [], "nbformat": 4}'}, 'notebook that was renamed'),
    'Octave': ('hw7.tar', tree(('hw7/relu_forward.m', b'function')), 'is for Octave or MATLAB'),
    'a large source': ('hw7.tar', tree(('hw7/cnn_lenet.py', SOURCE + b'#' * 2 ** 20)), 'bytes; expected at most'),
    'too many files': ('hw7.tar', tree(GOOD, *((f'hw7/{i}', b'') for i in range(1000))), 'more than 1000 files'),
    'a bomb of zeros': ('hw7.tar', member('hw7/zeros', size=2 ** 26)[0].tobuf(), 'more than 50 MB'),
    'a bomb of zeros in a zip': ('hw7.zip', zip_bytes(GOOD, ('zeros', bytes(60 * 2 ** 20))), 'more than 50 MB'),
    'an empty file': ('hw7.tar', b'', 'not a readable tar or zip file'),
    'a gzip damaged inside': ('hw7.tar.gz', b''.join((lambda x: (x[:60], b'\xff' * 40, x[100:]))(
        tar_bytes(member(*GOOD), mode='w:gz'))), 'not a readable tar or zip file'),
    'a zip cut short': ('hw7.zip', zip_bytes(GOOD)[:-30], 'not a readable tar or zip file'),
    'a long chain of headers': ('hw7.tar', tar_bytes(*(
        member('x', b'6 a=b\n', type=b'x') for _ in range(3000)), member(*GOOD)), 'not a readable tar or zip file'),
}


def store(folder, name, content):
    """Put a submission into a folder. Returns its path."""
    folder.mkdir(exist_ok=True)
    if name is None:
        for path, part in content.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(part)
        return folder
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize('name', ACCEPTED)
def test_whatever_holds_one_cnn_lenet_is_read(tmp_path, name):
    _, files = archive.choose(submissions.handed_in(store(tmp_path, *ACCEPTED[name])))
    assert files['cnn_lenet.py'] == SOURCE


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_refused_is_refused_in_one_line_saying_why(tmp_path, name):
    *handed_in, words = REFUSED[name]
    with pytest.raises(archive.Refused, match=re.escape(words)):
        archive.choose(submissions.handed_in(store(tmp_path, *handed_in)))


def test_a_report_on_what_is_not_graded_is_two_lines(tmp_path):
    path = store(tmp_path, 'hw7.tar', tree(('\x1b[2J\n.py', b'')))
    result = grade.grade(path, 0, flags_for(path))
    head, reason = grade.report(result, 0).splitlines()
    assert head.startswith('read hw7.tar, ') and reason.startswith('not graded: ') and r'It holds \x1b[2J .py' in reason
    assert {question: score for question, (score, _) in result.scores.items()} == without(*POINTS)


def test_links_and_pipes_in_a_folder_are_refused_at_once(tmp_path):
    path = tmp_path / 'cnn_lenet.py'
    for make in lambda: path.symlink_to(ROOT / 'cnn_lenet.py'), lambda: os.mkfifo(path):
        make()
        assert 'no ordinary file but a link' in grade.grade(tmp_path, 0, flags_for(tmp_path)).problem
        path.unlink()


def test_an_archive_that_takes_for_ever_is_given_up(tmp_path):
    """A header of many digits: whether it is the time or the reader that ends it, there is a score and a reason."""
    digits = b'hdrcharset=' + b'1' * 200_000
    path = store(tmp_path, 'hw7.tar', tar_bytes(member('x', b'1' * 200_000 + b' ' + digits, type=b'x'), member(*GOOD)))
    result = grade.grade(path, 0, flags_for(path, '--timeout', '1'))
    assert grade.total(result) == 0 and result.problem and 'Traceback' not in result.problem


SEVERAL = {
    'archives': {'a.tar': b'', 'b.zip': b''},
    'folders': {'a/hw7.tar': b'', 'b/cnn_lenet.py': SOURCE, 'c/cnn_lenet.py': SOURCE},
}
SINGLE = {
    'the folder of the handout': {'hw7/cnn_lenet.py': SOURCE, 'hw7/old.tar': b'', 'more.zip': b'', 'old/hw7.zip': b''},
    'a file with archives beside it': {'cnn_lenet.py': SOURCE, 'hw7.tar': b'', 'old.zip': b''},
    'a folder of another name': {'hw7-handout/cnn_lenet.py': SOURCE, 'hw7-handout/old.zip': b'', 'data/x.gz': b''},
}


@pytest.mark.parametrize('name', {**SEVERAL, **SINGLE})
def test_a_folder_of_several_submissions_is_not_graded_as_one(monkeypatch, tmp_path, name):
    monkeypatch.setattr(submissions, 'Submission', SubmissionHere)
    path = store(tmp_path, None, {**SEVERAL, **SINGLE}[name])
    result = grade.grade(path, 0, flags_for(path))
    if name in SINGLE:
        assert result.problem is None and grade.total(result) == 73
    else:
        assert not result.graded and '--csv' in result.problem
        assert all(first.split('/')[0] in result.problem for first in SEVERAL[name])


# ---------------------------------------------------------------------------------------------------------------
# A class, and Gradescope
# ---------------------------------------------------------------------------------------------------------------

ONE_MORE = changed("    return output['diff'] * (input['data'] > 0)", '    return None', ADAMS)


def rows_of(path):
    """A table: dict, name -> row, by the names of the columns."""
    with open(path, newline='', encoding='utf-8-sig') as file:
        rows = list(csv.DictReader(file))
    assert {tuple(row) for row in rows} == {('submission', *POINTS, 'total', 'seed', 'digest', 'remark')}
    assert len({row['submission'] for row in rows}) == len(rows)
    return {row['submission']: row for row in rows}


@pytest.fixture
def submitted(tmp_path):
    """A folder with the submissions of a class: one that is right, one with a mistake, one with two."""
    return store(tmp_path / 'submissions', None, {
        'adams/cnn_lenet.py': ADAMS.encode(), 'baker.py': QUIET.encode(), '=Müller.py': ONE_MORE.encode()})


def test_a_class_is_graded_into_a_table(one, submitted):
    """Bad ones do not end it; the table, though it lies among them, has a line for each."""
    store(submitted, 'baker.tar', tree(GOOD))
    store(submitted, None, {'clark.py': b'import os\nos.kill(os.getpid(), 9)\n', 'davis.py': TOO_EARLY,
                            'e\nf/notes.txt': b'', 'evans.docx': b'', '.DS_Store': b'', 'roster.csv': b''})
    process = subprocess.run([*one.program, str(submitted), '--csv', str(submitted / 'scores.csv'), '--unconfined',
                              '--feedback', str(submitted / 'feedback'), '--seed', '5'], text=True, capture_output=True)
    assert process.returncode == 0, process.stderr
    assert (submitted / 'scores.csv').read_bytes().startswith('\ufeffsubmission,'.encode())      # for Excel
    rows = rows_of(submitted / 'scores.csv')
    assert {name: (row['Q2'], row['total'], row['seed']) for name, row in rows.items()} == {
        "'=Müller.py": ('0', '67', '5'), 'adams': ('0', '70', '5'), 'baker.py': ('3', '73', '5'),
        'baker.tar': ('3', '73', '5'), 'clark.py': ('0', '0', '5'), 'davis.py': ('0', '0', '5'), 'e f': ('', '', '5')}
    assert list(rows) == sorted(rows)
    remarks = {name: row['remark'] for name, row in rows.items()}
    assert remarks['baker.tar'] == '' and remarks['adams'].startswith("Q2: output['data'][")
    assert 'Q5: input_od is None; expected a plain array' in remarks["'=Müller.py"]
    assert 'signal 9' in remarks['clark.py'] and 'It holds notes.txt' in remarks['e f']
    assert 'no points: import of cnn_lenet.py: EOFError' in remarks['davis.py']
    assert rows['baker.py']['digest'] == hashlib.sha256(QUIET.encode()).hexdigest()[:12]          # as sha256sum has it
    progress, summary = said(process)[:7], said(process)[7:]
    assert [line.split()[0] for line in progress] == list('1234567') and '  baker.tar  73' in process.stderr
    assert summary[0] == '7 of 7 submissions have a row: 6 graded, 1 not graded'
    assert summary[1].startswith('e f  not graded: the submission holds 0 files')
    assert summary[2:] == ['of the same student? baker.py, baker.tar',
                           'no submissions, without a row: evans.docx, roster.csv']
    assert sorted(os.listdir(submitted / 'feedback')) == sorted(f'{name}.txt' for name in os.listdir(submitted) if (
        name not in ('evans.docx', '.DS_Store', 'roster.csv', 'feedback', 'scores.csv')))
    assert graded_here(ADAMS, 5)[1] in (submitted / 'feedback' / 'adams.txt').read_text()


def test_what_has_changed_since_is_graded_again(run_here, submitted, tmp_path):
    table = tmp_path / 'scores.csv'
    assert run_here(submitted, '--csv', table)[0] is None
    before = rows_of(table)
    assert run_here(submitted, '--csv', table)[2].splitlines()[:2] == [
        'nothing to grade, all 3 have a row', '3 of 3 submissions have a row: 3 graded, 0 not graded']
    assert rows_of(table) == before
    store(submitted, None, {'adams/cnn_lenet.py': QUIET.encode(), 'clark.py': QUIET.encode()})
    progress, *summary = run_here(submitted, '--csv', table, '--jobs', '1')[2].split('4 of 4  clark.py  73\n')
    assert progress == '3 of 4  adams  73\n' and 'graded again: adams\n' in summary[0]
    after, seed = rows_of(table), before['adams']['seed']
    assert [after[name]['total'] for name in ('adams', 'clark.py')] == ['73', '73']
    assert {row['seed'] for row in after.values()} == {seed}                        # a class has one
    assert {name: after[name] for name in ("'=Müller.py", 'baker.py')} == {
        name: before[name] for name in ("'=Müller.py", 'baker.py')}
    store(submitted, None, {'adams/more.py': b''})
    assert 'graded again: adams\n' in run_here(submitted, '--csv', table)[2]


def test_one_submission_is_graded_again_with_the_seed_of_the_class(run_here, submitted, tmp_path):
    (tmp_path / 'scores.csv').symlink_to('real.csv')
    run_here(submitted, '--csv', tmp_path / 'real.csv', '--seed', '5')
    before = rows_of(tmp_path / 'real.csv')
    (tmp_path / 'real.csv').chmod(0o600)
    only = [submitted, '--csv', tmp_path / 'scores.csv', '--only']
    assert 'graded again: =Müller.py\n' in run_here(*only, '=Müller.py')[2] and rows_of(tmp_path / 'real.csv') == before
    (submitted / '=Müller.py').write_text(QUIET)
    run_here(*only, '=Müller.py')
    after = rows_of(tmp_path / 'scores.csv')
    assert after["'=Müller.py"] == {**before['baker.py'], 'submission': "'=Müller.py"}
    assert {**after, "'=Müller.py": None} == {**before, "'=Müller.py": None}
    assert sorted(os.listdir(tmp_path)) == ['real.csv', 'scores.csv', 'submissions']
    assert (tmp_path / 'scores.csv').is_symlink() and (tmp_path / 'real.csv').stat().st_mode & 0o777 == 0o600
    assert 'was begun with seed 5; leave out --seed 6' in run_here(*only, 'adams', '--seed', '6')[0]
    assert run_here(*only, 'Baker')[0].endswith('holds no submission Baker; did you mean baker.py?')
    assert run_here(*only, 'addams')[0].endswith('holds no submission addams; did you mean adams?')
    assert run_here(*only, 'zoe')[0].endswith('holds no submission zoe')


@pytest.mark.parametrize('names', [('smith j.py', 'smith  j.py'), ('=x.py', "'=x.py")])
def test_names_with_the_same_row_are_an_error_before_the_first_submission(run_here, submitted, tmp_path, names):
    store(submitted, None, dict.fromkeys(names, SOURCE))
    status, *_ = run_here(submitted, '--csv', tmp_path / 'scores.csv')
    assert all(repr(name) in status for name in names) and not (tmp_path / 'scores.csv').exists()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL], ids=['SIGTERM', 'SIGKILL'])
def test_the_same_command_goes_on_where_it_stopped(one, run_here, tmp_path, number):
    submitted = store(tmp_path / 'submissions', None, {'a.py': SOURCE, 'c.py': b'import time\ntime.sleep(1000)\n'})
    table, other, temporary = tmp_path / 'scores.csv', tmp_path / 'other.csv', tmp_path / 'temporary'
    temporary.mkdir()
    with subprocess.Popen([*one.program, str(submitted), '--csv', str(table), '--unconfined', '--jobs', '2'],
                          stderr=subprocess.PIPE, text=True, env={**os.environ, 'TMPDIR': str(temporary)}) as process:
        assert any(line.startswith('1 of 2') for line in process.stderr)
        process.send_signal(number)
        assert process.wait(LONG) == (143 if number == signal.SIGTERM else -9)
    if number == signal.SIGTERM:
        assert list(temporary.iterdir()) == []
    before = rows_of(table)
    assert list(before) == ['a.py']
    (submitted / 'c.py').write_text(QUIET)
    with open(table, 'a') as file:
        file.write('c.py,20,3')                        # somebody has edited it
    assert run_here(submitted, '--csv', table)[2].startswith('2 of 2  c.py  73\n')
    run_here(submitted, '--csv', other, '--seed', before['a.py']['seed'])
    assert rows_of(table) == rows_of(other) == {**before, 'c.py': rows_of(table)['c.py']}


@pytest.mark.parametrize('name, content, words', [
    ('missing/scores.csv', None, 'No such file'), ('submissions', None, 'Is a directory'),
    ('names.csv', 'name,total\nadams,70\n', 'is no table of scores'), ('names.xlsx', 'PK\0', 'is no table of scores')])
def test_a_table_that_cannot_be_written_is_an_error_before_the_first_submission(run_here, submitted, tmp_path, name,
                                                                                content, words):
    if content:
        (tmp_path / name).write_text(content)
    status, *printed = run_here(submitted, '--csv', tmp_path / name)
    assert status.startswith('grade.py: error: ') and words in status and '\n' not in status and printed == ['', '']
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


def test_after_the_total_what_was_graded_counts(monkeypatch, tmp_path):
    """The clock goes on in one call alone."""
    now = [0]

    class Endless(SubmissionHere):
        def call(self, function, arguments, form, deadline):
            if function != 'pooling_layer_backward':
                return super().call(function, arguments, form, deadline)
            now[0] = deadline
            raise cage.Failure('no answer in time')

    monkeypatch.setattr(submissions, 'Submission', Endless)
    monkeypatch.setattr(grade, 'time', types.SimpleNamespace(monotonic=lambda: now[0]))
    path = store(tmp_path, 'hw7.py', QUIET.encode())
    result = grade.grade(path, 0, flags_for(path, '--timeout', '30', '--total', '10'))
    assert {question: score for question, (score, _) in result.scores.items()} == without('Q4', 'Q5', 'Q6', 'Q7')
    assert 'no answer in time' in grade.report(result, 0) and 'no time was left' in grade.report(result, 0)
    assert now == [10]


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


@pytest.mark.parametrize('answer', [
    {'error': 'x' * 10 ** 6, 'line': 'x' * 10 ** 6}, {'error': 'x', 'line': 10 ** 5000},
    {'error': ['x'] * 10 ** 5}, {'result': ['other', 'x' * 10 ** 6], 'changed': [0, *['x' * 10 ** 4] * 100]},
    {'result': ['number', 1], 'changed': 'x' * 10 ** 6, 'printed': 'x' * 10 ** 6},
    *({'result': result} for result in (['list', []], ['list', [['dict', []]]], ['dict', []], ['number', 0],
                                        ['list', [0]]))], ids=range(10))
def test_an_answer_that_a_submission_makes_up_is_wrong_and_its_report_short(answer):
    """It can reach the loop that it is called from, and send what it likes."""
    submission = Answering(answer)
    for question in POINTS:
        score, feedback = grade.grade_question(question, submission, 0, LONG, time.monotonic() + LONG)
        assert score == 0 and len('\n'.join(feedback)) < 5000


@pytest.mark.parametrize('source, words', [
    ('def f(:\n', 'SyntaxError: invalid syntax (line 1 of cnn_lenet.py: def f(:)'),
    ('import names\n', 'SyntaxError: invalid syntax (names.py, line 1) (line 1 of cnn_lenet.py: import names)'),
    ('import pdb\npdb.set_trace()\nx = 1\n', 'a debugger was left in (pdb or breakpoint()) (line ')])
def test_an_error_says_its_line_once(tmp_path, source, words):
    store(tmp_path, None, {'cnn_lenet.py': source.encode(), 'names.py': b'def f(:\n'})
    assert grade.grade(tmp_path, 0, flags_for(tmp_path)).problem.startswith(f'import of cnn_lenet.py: {words}')


@pytest.mark.skipif(shutil.which('make') is None, reason='make is not installed')
def test_gradescope_takes_the_zip_as_it_is(tmp_path):
    """Its container has the zip unpacked in source/, the submission in submission/, and an empty results/."""
    project, root = tmp_path / 'project', tmp_path / 'autograder'
    shutil.copytree(AUTOGRADER, project / 'autograder', ignore=shutil.ignore_patterns('*.tar', '*.zip', '__pycache__'))
    (project / 'mnist_all.mat').write_text('data')
    subprocess.run(['make', '-C', str(project / 'autograder'), f'PYTHON={sys.executable}', 'gradescope.zip'],
                   check=True, capture_output=True)
    with zipfile.ZipFile(project / 'autograder' / 'gradescope.zip') as file:
        file.extractall(root / 'source')
        for name in ('setup.sh', 'run_autograder'):
            assert file.getinfo(name).external_attr >> 16 & stat.S_IXUSR
    (root / 'submission').mkdir()
    (root / 'results').mkdir()
    loading = 'assert open("mnist_all.mat").read() == "data"\n'
    (root / 'submission' / 'hw7.tar').write_bytes(tree(('hw7/cnn_lenet.py', (loading + LOOPS).encode())))
    process = subprocess.run(['bash', str(root / 'source' / 'run_autograder')], capture_output=True, text=True,
                             env={**os.environ, 'AUTOGRADER_ROOT': str(root), 'PYTHON': sys.executable})
    assert process.returncode == 0, process.stderr
    results = json.loads((root / 'results' / 'results.json').read_text())
    assert results['score'] == 73 and len(results['tests']) == 7, results
    assert os.listdir(root / 'results') == ['results.json']
    assert not list(root.rglob('__pycache__'))
