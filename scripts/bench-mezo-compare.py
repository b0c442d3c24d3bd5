#!/usr/bin/env python3
"""Runs plain PyTorch MeZO and `zo2 finetune` in turn (A B A B ...) and prints one table.

Started by bench-mezo.sh inside its virtual environment. Makes the random checkpoint under
.cache/bench, gives PyTorch the fastest kernels that its BLAS has for this CPU, drops each run's
first two steps, and reports medians with min..max over all kept steps, the ratio per round, and
peak resident memory.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WORK = os.path.join(ROOT, '.cache', 'bench')
TEXT = os.path.join(ROOT, 'examples', 'tinyshakespeare', 'train.txt')  # cut into full rows
BATCH_SIZE, LENGTH, WARMUP_STEPS = 16, 64, 2
MATMUL = '''
import os, time, torch
torch.set_num_threads(len(os.sched_getaffinity(0)))
a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
right = (a[:64].double() @ b.double() - (a @ b)[:64]).abs().max() < 1e-2
best = 1e9
for _ in range(4):
    t = time.perf_counter(); a @ b; best = min(best, time.perf_counter() - t)
print(2 * 2048 ** 3 / best / 1e9 if right else 0)
'''


def fastest_blas():
    """OPENBLAS_CORETYPE under which PyTorch multiplies fastest (an older OpenBLAS falls back to
    SSE kernels on CPUs it does not know), and its GFLOP/s. '' means: leave it unset."""
    with open('/proc/cpuinfo') as f:
        flags = f.read()
    names = [''] + [n for n, flag in (('SkylakeX', 'avx512bw'), ('Haswell', 'avx2'))
                    if flag in flags]
    speeds = {}
    for name in names:
        out = subprocess.run([sys.executable, '-c', MATMUL], env=torch_env(name), check=True,
                             capture_output=True, text=True).stdout
        speeds[name] = float(out)
    best = max(speeds, key=lambda n: speeds[n])
    return best, speeds[best]


def torch_env(core):
    env = {k: v for k, v in os.environ.items() if not k.startswith('OPENBLAS_')}
    return {**env, 'OPENBLAS_CORETYPE': core} if core else env


def prepare(size):
    """Makes the random checkpoint, once."""
    os.makedirs(WORK, exist_ok=True)
    model = os.path.join(WORK, f'opt-{size}')
    if not os.path.exists(os.path.join(model, 'model.safetensors')):
        subprocess.run([sys.executable, os.path.join(ROOT, 'scripts', 'make-random-opt.py'),
                        size, model], check=True)
    return model


def run_pytorch(model, steps, core):
    out = subprocess.run(
        [sys.executable, os.path.join(ROOT, 'scripts', 'bench-mezo-pytorch.py'), '--model', model,
         '--batch-size', str(BATCH_SIZE), '--length', str(LENGTH), '--steps', str(steps)],
        env=torch_env(core), check=True, stdout=subprocess.PIPE, text=True).stdout
    result = json.loads(out.strip().splitlines()[-1])
    return result['step_ms'][WARMUP_STEPS:], result['rss_peak_mb'], result


def run_ours(model, steps):
    """Steps from metrics.jsonl; peak RSS from wait4, which counts this child alone."""
    out = os.path.join(WORK, 'out')
    shutil.rmtree(out, ignore_errors=True)
    command = ['node', os.path.join(ROOT, 'dist', 'src', 'bin.js'), 'finetune', model,
               '--method', 'mezo-sgd', '--train', TEXT, '--steps', str(steps),
               '--batch-size', str(BATCH_SIZE), '--max-length', str(LENGTH), '--lr', '1e-6',
               '--eps', '1e-3', '--memory', '256MiB', '--output-dir', out, '--device', 'cpu']
    log = os.path.join(WORK, 'zo2.log')
    with open(log, 'w') as f:
        child = subprocess.Popen(command, stdout=f, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        with open(log) as f:
            sys.exit(f'zo2 finetune exited with {child.returncode}:\n{f.read()[-3000:]}')
    with open(os.path.join(out, 'metrics.jsonl')) as f:
        rows = [json.loads(line) for line in f]
    if any(r['tokens'] != BATCH_SIZE * LENGTH for r in rows if 'tokens' in r):
        print(f'note: tokens per step {sorted({r["tokens"] for r in rows})}, '
              f'PyTorch has {BATCH_SIZE * LENGTH}')
    steps_ms = [r['step_ms'] for r in rows][WARMUP_STEPS:]
    return steps_ms, usage.ru_maxrss / 1024


def row(name, steps_ms, rss_mb):
    return (f'{name:14} {statistics.median(steps_ms):10.0f} {min(steps_ms):10.0f} '
            f'{max(steps_ms):10.0f} {len(steps_ms):6d} {rss_mb:14.0f}')


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--steps', type=int, default=6, help='per run, two of them warm-up')
    parser.add_argument('--size', default='125m', help='see make-random-opt.py')
    args = parser.parse_args()
    if args.steps <= WARMUP_STEPS:
        parser.error(f'--steps must be above {WARMUP_STEPS}, which are dropped as warm-up')
    model = prepare(args.size)
    core, gflops = fastest_blas()
    theirs, ours, ratios, rss = [], [], [], [0.0, 0.0]
    for number in range(args.rounds):
        a, a_rss, info = run_pytorch(model, args.steps, core)
        b, b_rss = run_ours(model, args.steps)
        theirs, ours = theirs + a, ours + b
        rss = [max(rss[0], a_rss), max(rss[1], b_rss)]
        ratios.append(statistics.median(b) / statistics.median(a))
        print(f'round {number + 1}: PyTorch {statistics.median(a):.0f} ms, '
              f'zo2 {statistics.median(b):.0f} ms, ratio {ratios[-1]:.3f}', flush=True)
    print(f'\nOPT-{args.size} shape, {BATCH_SIZE} x {LENGTH} tokens, {os.cpu_count()} cores, '
          f'{platform.machine()}')
    print(f'PyTorch {info["torch"]}, f32, {info["threads"]} threads, {gflops:.0f} GFLOP/s'
          f'{f" (OPENBLAS_CORETYPE={core})" if core else ""}; zo2 with --memory 256MiB\n')
    print(f'{"":14} {"median ms":>10} {"min":>10} {"max":>10} {"steps":>6} {"peak RSS MiB":>14}')
    print(row('PyTorch MeZO', theirs, rss[0]))
    print(row('zo2 mezo-sgd', ours, rss[1]))
    print(f'\nratio of medians {statistics.median(ours) / statistics.median(theirs):.3f}, '
          f'per round {min(ratios):.3f}..{max(ratios):.3f}')


if __name__ == '__main__':
    main()
