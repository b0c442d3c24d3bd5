#!/usr/bin/env python3
"""Makes test/fixtures/tokenizers.json: what `transformers` makes of small tokenizer folders.

Each case is a folder of OPT's or GPT-2's kind with settings of one sort; `transformers` 4.57.6 and
5.24.0 give the same file.

Needs `transformers`: python3 -m venv .venv && .venv/bin/pip install transformers==5.24.0
"""

import json
import os
import tempfile
from pathlib import Path

os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['TRANSFORMERS_VERBOSITY'] = 'error'

from transformers import AutoTokenizer

OUT = Path(__file__).resolve().parent.parent / 'test' / 'fixtures' / 'tokenizers.json'

MERGES = ['Ġ t', 'h e', 'Ġt he', 'Ġ g', 'r e', 'Ġg re', 'a t', 'Ġgre at', 'Ċ Ċ']

TEXTS = ['', 'the great', ' the', '\nthe\n\n  the', '  x the', 'x <sep> the<sep>the',
         'the<|endoftext|>the', 'a</s>b<s> </s>', 'pad [PAD]', 'é日😀 the']


def byte_characters():
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return [chr(b) for b in shown] + [chr(256 + i) for i in range(len(hidden))]


def tokens(first, last):
    return [*first, *byte_characters(), *(m.replace(' ', '') for m in MERGES), *last]


VOCABULARIES = {
    'opt': tokens(['<s>', '<pad>', '</s>', '<unk>'], []),
    'gpt2': tokens([], ['<|endoftext|>']),
}
GPT2_SIZE = len(VOCABULARIES['gpt2'])


def token(content, special=True, **more):
    return {'content': content, 'single_word': False, 'lstrip': False, 'rstrip': False,
            'normalized': False, 'special': special, **more}


def whole(kind, added, space=False, before=None):
    """tokenizer.json; the test puts vocabulary and merges into it."""
    vocabulary = VOCABULARIES[kind]
    processor = {'type': 'ByteLevel', 'add_prefix_space': True, 'trim_offsets': False,
                 'use_regex': True}
    if before:
        one = {'Sequence': {'id': 'A', 'type_id': 0}}
        processor = {
            'type': 'TemplateProcessing',
            'single': [{'SpecialToken': {'id': before, 'type_id': 0}}, one],
            'pair': [one, {'Sequence': {'id': 'B', 'type_id': 1}}],
            'special_tokens': {before: {'id': before, 'ids': [vocabulary.index(before)],
                                        'tokens': [before]}},
        }
    bytes_ = {'type': 'ByteLevel', 'trim_offsets': True, 'use_regex': True}
    return {
        'version': '1.0', 'truncation': None, 'padding': None,
        'added_tokens': [{'id': vocabulary.index(t), **token(t)} for t in added],
        'normalizer': None,
        'pre_tokenizer': {**bytes_, 'add_prefix_space': space},
        'post_processor': processor,
        'decoder': {**bytes_, 'add_prefix_space': True},
        'model': {'type': 'BPE', 'dropout': None, 'unk_token': None,
                  'continuing_subword_prefix': '', 'end_of_word_suffix': '', 'fuse_unk': False},
    }


OPT_TOKENS = {'bos_token': '</s>', 'eos_token': '</s>', 'unk_token': '</s>', 'pad_token': '<pad>'}
OPT_ADDED = ['<s>', '<pad>', '</s>', '<unk>']
HUB = whole('gpt2', ['<|endoftext|>'])
SEP, PAD = GPT2_SIZE, GPT2_SIZE + 1
CONFIG, MAP, ADDED = 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json'

CASES = [
    ('GPT-2 as published', 'gpt2', {'tokenizer.json': HUB, CONFIG: {'model_max_length': 1024}}),
    ('GPT-2 without settings', 'gpt2', {}),
    ('GPT-2 that begins with BOS', 'gpt2', {CONFIG: {'add_bos_token': True}}),
    ('tokenizer.json before add_bos_token', 'gpt2',
     {'tokenizer.json': HUB, CONFIG: {'add_bos_token': True}}),
    ('an end of its own', 'gpt2', {CONFIG: {'eos_token': 'x'}}),
    ('a space before texts', 'gpt2', {CONFIG: {'add_prefix_space': True}}),
    ('a space before texts, tokenizer.json', 'gpt2',
     {'tokenizer.json': HUB, CONFIG: {'add_prefix_space': True}}),
    ('a space in tokenizer.json alone', 'gpt2',
     {'tokenizer.json': whole('gpt2', ['<|endoftext|>'], space=True), CONFIG: {}}),
    ('a space and BOS', 'opt',
     {CONFIG: {**OPT_TOKENS, 'add_bos_token': True, 'add_prefix_space': True}}),
    ('added_tokens.json', 'gpt2',
     {ADDED: {'<sep>': SEP, '[PAD]': PAD}, CONFIG: {'pad_token': '[PAD]'}}),
    ('added_tokens.json beside tokenizer.json', 'gpt2',
     {'tokenizer.json': HUB, ADDED: {'<sep>': SEP, '[PAD]': PAD}, CONFIG: {'pad_token': '[PAD]'}}),
    ('added_tokens.json and special tokens', 'gpt2',
     {ADDED: {'<sep>': SEP, '[PAD]': PAD}, MAP: {'pad_token': '[PAD]'}}),
    ('additional special tokens of the vocabulary', 'opt',
     {CONFIG: {**OPT_TOKENS, 'additional_special_tokens': ['<s>']}}),
    ('added_tokens_decoder before added_tokens.json', 'gpt2',
     {ADDED: {'<sep>': SEP},
      CONFIG: {'added_tokens_decoder': {str(SEP - 1): token('<|endoftext|>')}}}),
    ('added_tokens_decoder beside tokenizer.json', 'gpt2',
     {'tokenizer.json': HUB,
      CONFIG: {'added_tokens_decoder': {str(SEP - 1): token('<|endoftext|>'),
                                        str(SEP): token('<sep>', special=False),
                                        str(PAD): token('[PAD]')},
               'pad_token': '[PAD]'}}),
    ('spaces that belong to a token', 'gpt2',
     {CONFIG: {'add_prefix_space': True,
               'added_tokens_decoder': {str(SEP - 1): token('<|endoftext|>'),
                                        str(SEP): token('<sep>', lstrip=True, rstrip=True)}}}),
    ('special_tokens_map.json before tokenizer_config.json', 'opt',
     {CONFIG: {**OPT_TOKENS, 'pad_token': '<unk>'}, MAP: {'pad_token': '<pad>'}}),
    ('added_tokens_decoder before special_tokens_map.json', 'opt',
     {CONFIG: {**OPT_TOKENS, 'pad_token': '<unk>',
               'added_tokens_decoder': {'2': token('</s>'), '3': token('<unk>')}},
      MAP: {'pad_token': '<pad>'}}),
    ('OPT as published', 'opt', {CONFIG: {**OPT_TOKENS, 'add_bos_token': True}}),
    ('OPT without add_bos_token', 'opt', {MAP: OPT_TOKENS, CONFIG: {}}),
    ('a template', 'opt',
     {'tokenizer.json': whole('opt', OPT_ADDED, before='</s>'),
      CONFIG: {**OPT_TOKENS, 'add_bos_token': False}}),
    ('a template with another token than BOS', 'opt',
     {'tokenizer.json': whole('opt', OPT_ADDED, before='<s>'), CONFIG: OPT_TOKENS}),
]


def folder(path, kind, files):
    vocabulary = {t: i for i, t in enumerate(VOCABULARIES[kind])}
    content = {'config.json': {'model_type': kind}, 'vocab.json': vocabulary, **files}
    for name, value in content.items():
        if name == 'tokenizer.json':
            model = {**value['model'], 'vocab': vocabulary, 'merges': MERGES}
            value = {**value, 'model': model}
        (path / name).write_text(json.dumps(value))
    (path / 'merges.txt').write_text('\n'.join(['#version: 0.2', *MERGES, '']))


def read(name, kind, files):
    with tempfile.TemporaryDirectory() as temporary:
        folder(Path(temporary), kind, files)
        tokenizer = AutoTokenizer.from_pretrained(temporary)
        texts = []
        for text in TEXTS:
            ids = tokenizer(text)['input_ids']
            texts.append({'text': text, 'ids': ids, 'decoded': tokenizer.decode(ids),
                          'visible': tokenizer.decode(ids, skip_special_tokens=True)})
        return {'name': name, 'kind': kind, 'files': files, 'bos': tokenizer.bos_token_id,
                'eos': tokenizer.eos_token_id, 'pad': tokenizer.pad_token_id,
                'size': len(tokenizer), 'texts': texts}


def main():
    cases = ',\n'.join('  ' + json.dumps(read(*case)) for case in CASES)
    OUT.write_text(f'{{"vocabularies": {json.dumps(VOCABULARIES)},\n"merges": {json.dumps(MERGES)},\n'
                   f'"cases": [\n{cases}\n]}}\n')


main()
