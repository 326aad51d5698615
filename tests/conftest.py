"""What holds for every test; and a run of test_questions.py alone ends with a table of the questions."""

import os
import signal
import traceback
from pathlib import Path

import pytest

os.environ['MPLBACKEND'] = 'agg'        # before matplotlib is imported: no windows, and no notebook's backend

# A shell script's `pytest &` starts with SIGINT ignored, for its children too: what a test stops would never stop.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure():
    if not __debug__:
        raise pytest.UsageError('python -O leaves out the assertions that tests are made of; run python -m pytest')
    module = Path(__file__).resolve().parents[1] / 'cnn_lenet.py'
    try:
        compile(module.read_bytes(), str(module), 'exec')
    except SyntaxError as error:        # the file, the line and Python's words, without pytest's own lines
        raise pytest.UsageError(''.join(traceback.format_exception_only(error))) from None


def pytest_terminal_summary(terminalreporter):
    reports = [report for outcome in ('passed', 'failed') for report in terminalreporter.getreports(outcome)]
    if not reports or any('test_questions.py::' not in report.nodeid for report in reports):
        return
    # Not at the top, since pytest must be the first to import a test file.
    from test_questions import QUESTIONS, not_written

    terminalreporter.section('questions')
    total = right = 0
    for question, (name, points) in QUESTIONS.items():
        outcomes = {report.outcome for report in reports if f'::Test{question}_' in report.nodeid}
        if outcomes:
            passed = outcomes == {'passed'}
            state = 'right' if passed else 'not written yet' if question in not_written() else 'wrong'
            total, right = total + points, right + points * passed
            terminalreporter.line(f'{question:4}{name:24}{points:3} points   {state}')
    terminalreporter.line(f'{right:31} of {total} points')
