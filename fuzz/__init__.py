"""Coverage-guided fuzzing of everything that reads files which others wrote.

python -m fuzz                 every target, two minutes each, then docs/fuzzing.md
contract.py                    what must hold of any input; the tests replay the regressions through it
targets/                       one small file per reader
drive.py                       one target under atheris, in a process of its own
campaign.py                    runs the targets, shrinks what they find, gathers the counts
page.py                        docs/fuzzing.md
"""
