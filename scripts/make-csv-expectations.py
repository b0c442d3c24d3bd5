#!/usr/bin/env python3
"""Makes test/fixtures/csv.json: what pandas.read_csv makes of small CSV texts, as strings.

Needs `pandas` (made with 3.1.1): python3 -m venv .venv && .venv/bin/pip install pandas
"""

import io
import json
from pathlib import Path

import pandas

OUT = Path(__file__).resolve().parent.parent / 'test' / 'fixtures' / 'csv.json'

TEXTS = [
    # line ends of several systems in one file
    'text,label\r\na,1\nb,0\r\nc,1\n',
    'text,label\na,1\r\nb,0\nc,1\r\n',
    'text,label\ra,1\rb,0\r',
    'text,label\n"two\r\nlines",1\r\n"and\nmore",0\nlast,1',
    'text,label\n\r\n\n\r\ra,1\r\n\r\nb,0',
    # quotes
    'text,label\n5" disk,1\nsay "no",0\n',
    'text,label\n"a" b,1\n"c""d",0\n',
    'text,label\n"a,b","1"\n"",0\n',
    '"text","label"\n"x",""\r\n',
    # blank lines, spaces
    'text\na\n  \n\t\nb\n',
    '\n\ntext\n  a\n\nb \n',
    'text\n""\nb\n',
    # columns without a name, and commas at the end
    ',text,label\n0,a,1\n1,b,0\n',
    'text,label,\na,1,\nb,0,\n',
    'text,,\na,b,c\n',
    # characters
    'text,label\na\u2028b,1\nc\u0085d,0\n',
    'text,label\né日😀,1\n',
    '\ufefftext,label\na,1\n',
]


def read(text):
    table = pandas.read_csv(io.BytesIO(text.encode()), dtype=str, keep_default_na=False)
    return {'text': text, 'records': table.to_dict('records')}


lines = ',\n'.join('  ' + json.dumps(read(text)) for text in TEXTS)
OUT.write_text(f'[\n{lines}\n]\n')
