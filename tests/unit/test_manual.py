#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Each option that the programs take is in --help, in the manual and in the completion of bash and zsh, and no other: test_manual.py
SOURCE OVERBOOK OVERBOOKD OVERBOOK_GUEST. Each page has a name that apropos(1) finds. Prints TAP."""
import os
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import cases  # noqa: E402

SOURCE, OVERBOOK, OVERBOOKD, GUEST = sys.argv[1:]
OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]*)")
# Where the options of a subcommand lie, if not in cmd_NAME.c; whose options are meant where a page speaks of those of others.
TABLES = {"run": "src/cli/run_options.c"}


def read(path):
    with open(os.path.join(SOURCE, path), encoding="utf-8") as file:
        return file.read()


def table(path):
    """The options of getopt_long()."""
    return set(re.findall(r'\{ "([a-z-]+)", (?:no|required)_argument', read(path)))


def help_of(*command):
    return subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, timeout=20).stdout


def words(line):
    """The options of a line of mdoc, where the dash of the first half is the macro's: Fl -name, or -name behind one."""
    return set(re.findall(r"(?:Fl|,|\|) -([a-z][a-z-]*)", line))


def options_of_page(path):
    """The options that a page's synopsis has, those that have a paragraph, those that are spoken of; whether the synopsis says "options"."""
    synopsis, text = read(path).split(".Sh SYNOPSIS\n")[1].split("\n.Sh ", 1)
    found = [words(line) for line in synopsis.splitlines() if re.match(r"\.(Op|Fl|Ar)", line)]
    items = [words(line) for line in text.splitlines() if line.startswith(".It Fl")]
    spoken_of = [words(line) for line in text.splitlines() if line.startswith(".")]
    return set().union(*found), set().union(*items), set().union(*spoken_of), "Ar options" in synopsis


def bash_offers(file, function, *typed):
    if not shutil.which("bash"):
        return None
    script = f'. "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); {function}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    run = subprocess.run(["bash", "--norc", "-c", script, f"{SOURCE}/contrib/completion/{file}", *typed], capture_output=True, text=True,
                         timeout=20, check=True)
    return set(OPTION.findall(run.stdout))


def zsh_knows(file):
    return set(re.findall(r"--([a-z-]+)\[", read(f"contrib/completion/{file}")))


def compare(name, known, helped, page):
    synopsis, items, spoken_of, is_open = options_of_page(page)
    assert known, name
    # Of --help overbook(1) speaks for all commands.
    assert set(OPTION.findall(helped)) | {"help"} >= known, f"{name}: not in --help: {known - set(OPTION.findall(helped))}"
    assert spoken_of | {"help"} >= known, f"{page}: nothing on {known - spoken_of}"
    assert items <= known, f"{page}: {items - known} is not known to {name}"
    assert synopsis <= known and (is_open or synopsis | {"help"} >= known), f"{page}: synopsis: {synopsis ^ known}"


def subcommands():
    """The options of each subcommand of overbook are in its --help and its manual page, and no others"""
    commands = re.findall(r"^  ([a-z]+) ", help_of(OVERBOOK), re.M)
    assert len(commands) > 10
    for command in commands:
        known = table(TABLES.get(command, f"src/cli/cmd_{command}.c"))
        if command == "version":
            assert known == {"json", "help"} and ".It Cm version Op Fl -json\n" in read("docs/man/overbook.1")
        else:
            compare(f"overbook {command}", known, help_of(OVERBOOK, command), f"docs/man/overbook-{command}.1")
            assert f".Xr overbook-{command} 1" in read("docs/man/overbook.1"), command


def daemons():
    """So are those of overbookd and overbook-guest, and their completion has them all"""
    for name, program, directory in ("overbookd", OVERBOOKD, "daemon"), ("overbook-guest", GUEST, "guest"):
        known = table(f"src/{directory}/main.c")
        compare(name, known, help_of(program), f"docs/man/{name}.8")
        offers = bash_offers(f"{name}.bash", "_" + name.replace("-", "_"), name, "--")
        assert offers in (known, None), (name, offers and offers ^ known)
        assert zsh_knows(f"_{name}") == known, (name, zsh_knows(f"_{name}") ^ known)


def settings():
    """Each setting of overbookd is an option, and has a paragraph; so has each of overbook-qemu"""
    page = read("docs/man/overbookd.8").split(".Sh CONFIGURATION\n")[1].split("\n.Sh ")[0]
    held = subprocess.run([OVERBOOKD, "--check"], capture_output=True, text=True, check=True, timeout=20).stdout
    names = re.findall("^([A-Z_]+)=", held, re.M)
    documented = {name for line in page.splitlines() if line.startswith(".It Cm") for name in re.findall("[A-Z_]{3,}", line)}
    assert len(names) > 5 and set(names) == documented, set(names) ^ documented
    assert {name.lower().replace("_", "-") for name in names} <= table("src/daemon/main.c")
    assert all(f"{name}=" in help_of(OVERBOOKD) for name in names), names
    page = read("docs/man/overbook-qemu.1").split(".Sh SETTINGS\n")[1].split("\n.Sh ")[0]
    documented = set(re.findall(r"^\.It Cm ([a-z_]+) No =", page, re.M))
    keys = read("src/cli/machine_settings.c").split("keys[] = {")[1].split("};")[0]
    assert set(re.findall('"([a-z_]+)"', keys)) == documented, documented
    examples = set(re.findall(r"^#([a-z_]+) = ", read("contrib/libvirt/machines.conf"), re.M))
    assert examples <= documented and documented - examples == {"name"}, documented ^ examples


def names():
    """Each manual page has a name of one word, as apropos and whatis want it"""
    for page in sorted(os.listdir(f"{SOURCE}/docs/man")):
        name = page.rsplit(".", 1)[0]
        assert f".Sh NAME\n.Nm {name}\n.Nd " in read(f"docs/man/{page}"), page
        assert f"docs/man/{page}'" in read("meson.build"), f"{page} is not installed"


if __name__ == "__main__":
    sys.exit(cases.main(subcommands, daemons, settings, names))
