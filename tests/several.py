"""Grade the sources 0.py, 1.py, ... of a folder at the same time; grading.Grader starts a copy of it beside grade.py.

For each, it reads (what never ends: 'import' or questions, flags) from standard input. What never ends gets a short
time, the rest as long as it takes. Each function is called once.
"""

import concurrent.futures
import json
import sys
from pathlib import Path

import grade


def main(folder, settings):
    """Print a list of (scores, report)."""
    ask, cases_of = grade.grade_question, grade.cases_of

    def grade_question(question, submission, seed, timeout, deadline):
        endless, _ = settings[int(submission.path.stem)]
        return ask(question, submission, seed, 1 if question in endless else timeout, deadline)

    def graded(number):
        endless, flags = settings[number]
        short = ['--timeout', '2'] if endless == 'import' else []
        path = Path(folder, f'{number}.py')
        result = grade.grade(path, 0, grade.get_parser().parse_args([str(path), *flags, *short]))
        return {question: score for question, (score, _) in result.scores.items()}, grade.report(result, 0)

    grade.grade_question, grade.cases_of = grade_question, lambda question, seed: cases_of(question, seed)[-1:]
    waiting = sum(bool(endless) for endless, _ in settings)
    with concurrent.futures.ThreadPoolExecutor(waiting + 2) as pool:
        print(json.dumps(list(pool.map(graded, range(len(settings))))))


if __name__ == '__main__':
    main(sys.argv[1], json.load(sys.stdin))
