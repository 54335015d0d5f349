#!/usr/bin/env python3
"""Runs one file of unittest cases and writes what came of them as JSON, for tests/run.py.

Usage: unittest_report.py FILE REPORT
REPORT: {"passed": N, "failures": [[name, text]...], "skips": [[name, reason]...]}. A case whose subtests fail is one
failure; a class or module that cannot be set up is one, too.
"""

import importlib.util
import json
import os
import sys
import unittest


class Result(unittest.TextTestResult):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.passed = 0

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self.skipped.append((test, "fails as expected"))


def case_name(test):
    """The name of a case, also of one that stands for a subtest of it."""
    return getattr(test, "test_case", test).id()


def load(path):
    """The cases of the file, or one that fails with the reason why it cannot be imported."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    name = os.path.splitext(os.path.basename(path))[0]
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except unittest.SkipTest as skip:
        return None, [[name, str(skip)]]
    return unittest.defaultTestLoader.loadTestsFromModule(module), []


def main():
    path, report = sys.argv[1:]
    suite, skips = load(path)
    passed, failures = 0, {}
    if suite is not None:
        runner = unittest.TextTestRunner(resultclass=Result, verbosity=2, buffer=False)
        result = runner.run(suite)
        passed = result.passed
        for test, text in result.failures + result.errors:
            failures.setdefault(case_name(test), text)
        for test in result.unexpectedSuccesses:
            failures.setdefault(case_name(test), "was expected to fail and did not: it is mended, say so in the test")
        skips += [[case_name(test), reason] for test, reason in result.skipped]
    with open(report + ".part", "w", encoding="utf-8") as file:
        json.dump({"passed": passed, "failures": list(failures.items()), "skips": skips}, file)
    os.replace(report + ".part", report)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
