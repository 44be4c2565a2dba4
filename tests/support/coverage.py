#!/usr/bin/env python3
"""Prints what share of the library's lines and branches the tests that ran have reached, by file, and
holds tests/support/coverage-uncovered.txt against the branches that were not: every function of the
rooms named there that has some is explained, and no other.

    coverage.py BUILD    (the directory of VARIANT=coverage, with its counts)
"""
import json
import os
import subprocess
import sys

ROOMS = ('liblisa/api/', 'liblisa/formats/', 'liblisa/optim/', 'liblisa/sampler/')
EXPLAINED = 'tests/support/coverage-uncovered.txt'


def measure(build):
    """gcovr's files: lines with their counts and branches, functions with their first lines."""
    told = subprocess.run(
        ['gcovr', '--root', '.', '--object-directory', build, '--filter', 'liblisa/',
         '--exclude', 'liblisa/backend/cuda/', '--json', '-', os.path.join(build, 'obj')],
        check=True, stdout=subprocess.PIPE).stdout
    return sorted(json.loads(told)['files'], key=lambda f: f['file'])


def share(n, of):
    return '%6.2f%%' % (100 * n / of) if of else '      -'


class Sum:
    def __init__(self):
        self.lines = self.lines_hit = self.branches = self.branches_hit = 0

    def add(self, file):
        for line in file['lines']:
            if line.get('gcovr/noncode'):
                continue
            self.lines += 1
            self.lines_hit += line['count'] > 0
            self.branches += len(line['branches'])
            self.branches_hit += sum(b['count'] > 0 for b in line['branches'])

    def show(self, name):
        print('%-46s %s of %5d %s of %5d' % (
            name, share(self.lines_hit, self.lines), self.lines,
            share(self.branches_hit, self.branches), self.branches))


def print_table(files):
    rooms, total = {room: Sum() for room in ROOMS}, Sum()
    print('%-46s %16s %16s' % ('', 'lines', 'branches'))
    for file in files:
        own = Sum()
        for s in [own, total] + [rooms[r] for r in ROOMS if file['file'].startswith(r)]:
            s.add(file)
        own.show(file['file'])
    for room in ROOMS:
        rooms[room].show(room)
    total.show('total')


def missed(files):
    """(file, function) of each branch that no test took, with its lines."""
    found = {}
    for file in files:
        starts = sorted((f['lineno'], f['name']) for f in file['functions'])
        for line in file['lines']:
            if not file['file'].startswith(ROOMS) or all(b['count'] for b in line['branches']):
                continue
            name = [n for at, n in starts if at <= line['line_number']][-1]
            found.setdefault((file['file'], name), []).append(line['line_number'])
    return found


def explained():
    """FILE FUNCTION WHY, one a line."""
    with open(EXPLAINED, encoding='utf-8') as lines:
        return {tuple(line.split()[:2]) for line in lines if line[:1] not in '#\n'}


def main():
    files = measure(sys.argv[1])
    print_table(files)
    found, known = missed(files), explained()
    for file, name in sorted(set(found) - known):
        lines = ', '.join(str(n) for n in found[file, name])
        print('not reached and not explained in %s: %s %s, line %s' % (EXPLAINED, file, name, lines))
    for file, name in sorted(known - set(found)):
        print('explained in %s, yet reached: %s %s' % (EXPLAINED, file, name))
    return set(found) != known


if __name__ == '__main__':
    sys.exit(main())
