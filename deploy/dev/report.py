"""What a run of tests comes to, from the reports of cargo-nextest (JUnit).

report.py failed REPORT                  the failed tests, as a filter of cargo-nextest; nothing where none failed
report.py describe REPEAT FOLDER REPORT  each failure with its servers' logs, which tests leave in FOLDER, and the command that
                                         repeats it, which begins with REPEAT
report.py count BEGUN REPORT [AGAIN]     the flaky tests, the failed ones, then `N passed, N failed`; fails where one failed or
                                         fewer than BEGUN have a result.
                                         AGAIN is the report of the second run of what failed: what passed there is flaky.
"""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

LOG_LINES = 60
# Of a test's own output: enough for the assertion and what is around it.
OUTPUT_LINES = 40


def cases(report):
    """(binary, test, output of the failure or None) of each test that was run."""
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        for case in suite.iter("testcase"):
            failure = case.find("failure")
            if failure is None:
                failure = case.find("error")
            output = None
            if failure is not None:
                texts = [failure.get("message"), failure.text, case.findtext("system-out"), case.findtext("system-err")]
                output = "\n".join(text.strip() for text in texts if text and text.strip())
            yield case.get("classname"), case.get("name"), output


def last(text, lines):
    all_lines = text.splitlines()
    left_out = len(all_lines) - lines
    return ([f"({left_out} lines before)"] if left_out > 0 else []) + all_lines[-lines:]


def indented(lines):
    return "".join(f"    | {line}\n" for line in lines)


def description(folder, binary, test, output, repeat):
    """A failure, whole: what it said, its servers' logs, how to repeat it."""
    text = f"FAILED {binary} {test}\n" + indented(last(output, OUTPUT_LINES))
    for log in sorted((folder / test.replace("::", ".")).glob("*")):
        if log.is_file():
            content = log.read_text(errors="replace")
            text += f"  the end of {log}:\n" + indented(last(content, LOG_LINES))
    return text + f"  to repeat it: {repeat} {test}\n"


def failures(report):
    return [(binary, test, output) for binary, test, output in cases(report) if output is not None]


def failed(report):
    print(" | ".join(f"(binary_id(={binary}) & test(={test}))" for binary, test, _ in failures(report)))
    return 0


def describe(repeat, folder, report):
    for binary, test, output in failures(report):
        print(description(Path(folder), binary, test, output, repeat))
    return 0


def count(begun, report, again=None):
    run = sum(1 for _ in cases(report))
    missing = int(begun) - run
    passed_alone = {(binary, test) for binary, test, output in cases(again) if output is None} if again else set()
    lost = 0
    for binary, test, _ in failures(report):
        flaky = (binary, test) in passed_alone
        lost += not flaky
        print(f"FLAKY  {binary} {test}: failed, then passed alone" if flaky else f"FAILED {binary} {test}")
    if missing:
        print(f"{missing} of {begun} tests have no result: the run was ended")
    print(f"{run - lost} passed, {lost} failed")
    return 1 if lost or missing or not run else 0


def main(words):
    match words:
        case ["failed", report]:
            return failed(report)
        case ["describe", repeat, folder, report]:
            return describe(repeat, folder, report)
        case ["count", begun, report, *again] if len(again) < 2:
            return count(begun, report, *again)
    print(__doc__, file=sys.stderr)
    return 2


sys.exit(main(sys.argv[1:]))
