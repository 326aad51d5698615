"""The documents: what is cited is defined in the lecture, links lead somewhere, LeNet's table is that of the code."""

import re
from pathlib import Path

import numpy as np
import pytest

import testLeNet
from cnn_lenet import forward, init_convnet

TOP = Path(__file__).resolve().parent.parent
FOLDERS = ('.', 'docs', 'tests', 'autograder', 'benchmarks')
DOCUMENTS = [path for folder in FOLDERS for path in sorted((TOP / folder).glob('*.md'))]
CITING = DOCUMENTS + [path for folder in FOLDERS for path in sorted((TOP / folder).glob('*.py'))]
LECTURE = (TOP / 'docs' / 'lecture.md').read_text('utf-8')

NUMBER = r'\(?\d+(?:\.\d+)*\)?'
NUMBERS = rf'({NUMBER}(?:(?:, | and | to |-){NUMBER})*)'
CITATIONS = {'section': rf'(?i)\bsections? {NUMBERS}', 'equation': rf'(?i)\beq(?:s?\.|uations?) {NUMBERS}',
             'question': r'\bQ(\d+)'}
DEFINITIONS = {'section': r'^#+ .*', 'equation': r'\\quad ?\(\d+\)', 'question': r'^- \*\*Q\d+'}


def name(path):
    return path.relative_to(TOP).as_posix()


@pytest.mark.parametrize('path', CITING, ids=name)
@pytest.mark.parametrize('kind', CITATIONS)
def test_what_is_cited_is_defined_in_the_lecture(kind, path):
    text = re.sub(r'\s+(?:# )?', ' ', path.read_text('utf-8'))         # a citation may be broken over two lines
    cited = {number for numbers in re.findall(CITATIONS[kind], text) for number in re.findall(r'\d[\d.]*\b', numbers)}
    definitions = re.findall(DEFINITIONS[kind], LECTURE, re.MULTILINE)
    assert cited <= {number for text in definitions for number in re.findall(r'\d+(?:\.\d+)*', text)}


def anchors(path):
    """The anchors that GitHub makes of a document's headings: small letters, no punctuation, hyphens for spaces."""
    text = re.sub(r'^```.*?^```', '', path.read_text('utf-8'), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r'^#+ +(.+?) *$', text, re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('path', DOCUMENTS, ids=name)
def test_links_lead_to_files_and_headings(path):
    text = path.read_text('utf-8')
    folder = TOP if path.name == 'student-README.md' else path.parent      # it lies at the top of the starter
    for link in re.findall(r'\]\(([^)\s]+)\)', text) + re.findall(r'<img[^>]* src="([^"]+)"', text):
        if not re.match('https?:', link):
            file, _, anchor = link.partition('#')
            target = folder / file if file else path
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize('path', DOCUMENTS, ids=name)
def test_formulas_and_blocks_of_code_are_balanced(path):
    """As GitHub reads them: $...$ within a paragraph, $$...$$ on lines of its own."""
    text = path.read_text('utf-8')
    assert len(re.findall('^```', text, re.MULTILINE)) % 2 == 0
    text = re.sub(r'^```.*?^```|^    .*?$|`[^`\n]*`', '', text, flags=re.DOTALL | re.MULTILINE)
    shown = re.findall(r'(?<=\n\n)\$\$([^$]+)\$\$(?=\n\n)', text)
    assert len(shown) * 2 == text.count('$$')
    paragraphs = re.sub(r'\$\$[^$]*\$\$', '', text).split('\n\n')
    assert [paragraph for paragraph in paragraphs if paragraph.count('$') % 2] == []
    for formula in shown + re.findall(r'\$([^$]+)\$', '\n\n'.join(paragraphs)):
        assert formula.count('{') == formula.count('}') and '\\\\' not in formula, formula
        assert not re.search(r'\\[^\w\s]|(?<!\w)_\w.*\w_(?!\w)', formula), formula          # Markdown's own meaning


def test_table_of_lenet_in_the_lecture():
    layers, total = testLeNet.get_lenet(1), 0
    params = init_convnet(layers)
    outputs = forward(params, layers, np.zeros((784, 1)))
    for i, layer in layers.items():
        shape = tuple(outputs[i][key] for key in ('height', 'width', 'channel')) if i in outputs else ''
        w, b = (params[i - 1][key] if i > 1 else np.array([]) for key in 'wb')
        settings = ', '.join(f'{key} {layer[key]}' for key in ('num', 'k', 'stride', 'pad') if key in layer)
        cells = [i, layer['type'], settings, shape, *((w.shape, b.shape, f'{w.size + b.size:,}') if w.size else '   ')]
        assert re.sub(' +', ' ', '| ' + ' | '.join(map(str, cells))) in LECTURE
        total += w.size + b.size
    assert f'| {total:,} |' in LECTURE
