"""The README's commands, as the tests run them: what it says is what is tried."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def commands(section):
    """The shell lines of a section's code blocks, in order, without comments and without `sudo`: the tests are root."""
    body = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## )", README.read_text(), re.M | re.S).group(1)
    blocks = re.findall(r"^```\n(.*?)^```", body, re.M | re.S)
    lines = [re.split(r"\s{2,}|\s#", line)[0].removeprefix("sudo ") for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def command(section, start):
    """The one line of a section that begins with these words."""
    found = [line for line in commands(section) if line.startswith(start)]
    if len(found) != 1:
        raise ValueError(f"README, {section}: {len(found)} lines begin with {start!r}")
    return found[0]


def file(section, name):
    """What a section's code block shows of the file of that name, its own first line left out."""
    text = README.read_text()
    return re.search(rf"^```\n# {re.escape(name)}\n(.*?)^```", text[text.index(f"## {section}\n") :], re.M | re.S).group(1)


def run(machine, section, start, where="/"):
    """Types that line at a prompt, and yes to what it asks; returns what was said."""
    return machine.run("sh", "-c", f"cd {where} && {command(section, start)}", stdin="y\n").stdout
