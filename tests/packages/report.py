"""One line per check as it is decided, and one closing line that counts them."""

import threading
import time


class Report:
    """Collects verdicts from suites that run side by side."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self._lock = threading.Lock()
        self._start = time.monotonic()

    def suite(self, name, gating=True):
        """The view of one suite; with gating=False its failures are printed and do not count."""
        return Suite(self, name, gating)

    def _say(self, word, suite, sentence, detail=""):
        print(f"{word:<5} {time.monotonic() - self._start:6.1f}s  {suite}: {sentence}", flush=True)
        for line in detail.splitlines():
            print(f"      | {line}", flush=True)

    def close(self):
        """Print the closing line; returns the exit code."""
        if self.passed == 0:
            self.failed += 1
            print("FAIL  nothing was tested", flush=True)
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped", flush=True)
        return 1 if self.failed else 0


class Suite:
    """What a suite says its verdicts to."""

    def __init__(self, report, name, gating):
        self.report, self.name, self.gating = report, name, gating

    def check(self, sentence, holds, detail=""):
        """Record whether the sentence is true; `detail` is shown only when it is not."""
        report = self.report
        with report._lock:
            if holds:
                report.passed += 1
                report._say("ok", self.name, sentence)
            elif self.gating:
                report.failed += 1
                report._say("FAIL", self.name, sentence, str(detail))
            else:
                report.skipped += 1
                report._say("SKIPPED:", self.name, f"{sentence} (failed, but this suite does not gate)", str(detail))
        return bool(holds)

    def equal(self, sentence, before, after):
        """Record whether two mappings or texts are the same, and show in what they differ when not."""
        return self.check(sentence, before == after, difference(before, after) if before != after else "")

    def skip(self, sentence, why):
        """Record loudly that something was not tested."""
        with self.report._lock:
            self.report.skipped += 1
            self.report._say("SKIPPED:", self.name, f"{sentence}: {why}")


def difference(before, after):
    """Human-readable difference of two mappings or two texts."""
    if isinstance(before, dict) and isinstance(after, dict):
        lines = [f"gone     {k}" for k in sorted(before.keys() - after.keys())]
        lines += [f"left     {k}" for k in sorted(after.keys() - before.keys())]
        lines += [
            f"changed  {k}: {before[k]} -> {after[k]}" for k in sorted(before.keys() & after.keys()) if before[k] != after[k]
        ]
        return "\n".join(lines[:60])
    import difflib

    return "\n".join(list(difflib.unified_diff(str(before).splitlines(), str(after).splitlines(), lineterm="", n=0))[:60])
