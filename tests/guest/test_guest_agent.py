# SPDX-License-Identifier: GPL-2.0-or-later
"""overbook-guest in a real guest, and what it asks for memory: an application (contrib/examples/cache.c, which checks its own bytes), and real
servers (servers.py, which look after theirs).

The witness checks every byte of its own. What the host really has back is taken from the kernel's accounting.
"""
import os
import re
import sys
import time

import machine as harness
import servers
import tap

MIB = harness.MIB
# What an application frees comes to the host by the balloon alone, so that the balloon is what is seen.
BALLOON = ["-device", "virtio-balloon-pci,id=balloon,free-page-reporting=off,deflate-on-oom=on"]


SETUP = dict(memory=320, witness=dict(anon=20, rate=0), arguments=BALLOON)


def start(host, *daemon, cache="150,30", **options):
    host.start_daemon(*daemon)
    machine = host.machine("guest", **{**SETUP, "append": f"guest_agent cache_app={cache}", **options})
    machine.wait_ready()
    return machine


def guest(machine):
    return machine.stats()["guest"]


def cache(machine):
    found = guest(machine) if machine.name in machine.host.rows() else None
    return next((app for app in found["applications"] if app["name"] == "cache"), None) if found else None


def wait_cache(machine, what, condition):
    def look():
        machine.expect_clean()
        found = cache(machine)
        return found if found and condition(found) else None
    try:
        return harness.wait_until(look, "")
    except TimeoutError:
        raise TimeoutError(f"the application never {what}: {cache(machine)}, {machine.stats()['balloon']}") from None


def console(machine):
    with open(machine.host.path(machine.name + "-console.log"), errors="replace") as log:
        return log.read()


def clean(machine):
    """Neither the witness nor the application has seen a wrong byte."""
    machine.check()
    assert "WRONG" not in console(machine)


def an_application_gives_and_the_host_has_it(host):
    """A guest's application is asked, the balloon takes what it gives, the host has it, and the application gets it back"""
    machine = start(host)
    wait_cache(machine, "is here", lambda app: app["used_bytes"] == 150 * MIB)
    found = guest(machine)
    assert found["program"].startswith("overbook-guest") and 200 * MIB < found["total_bytes"] < 320 * MIB, found
    harness.wait_until(lambda: guest(machine)["pressure_some_permille"] is not None, "the guest tells of its pressure")
    before = machine.host_bytes()
    host.run("balloon", "guest", "170M")
    began = time.monotonic()
    wait_cache(machine, "has given", lambda app: app["state"] == "given" and app["given_bytes"] > 30 * MIB)
    gave = time.monotonic() - began
    harness.wait_until(lambda: machine.stats()["balloon"]["held_bytes"] >= 145 * MIB, "the balloon has what is wanted")
    balloon, found = machine.stats()["balloon"], cache(machine)
    harness.wait_until(lambda: machine.host_bytes() < before - 40 * MIB, "the host has got memory back")
    tap.comment(f"{found['given_bytes'] / MIB:.0f} MiB given after {gave:.1f} s, {balloon['held_bytes'] / MIB:.0f} MiB in the balloon after "
                f"{time.monotonic() - began:.1f} s, {(before - machine.host_bytes()) / MIB:.0f} MiB back on the host; eased {balloon['eased']} times")
    clean(machine)
    host.run("balloon", "guest", "off")
    wait_cache(machine, "has it back", lambda app: app["state"] == "resting" and app["used_bytes"] == 150 * MIB)
    harness.wait_until(lambda: machine.stats()["balloon"]["held_bytes"] == 0, "the balloon is empty")
    clean(machine)


def asks_of(machine):
    """What its cache was told to give, in MiB, one after the other."""
    return [int(line.split("asked to give ")[1].split()[0]) for line in console(machine).splitlines() if "asked to give " in line]


def one_that_gives_half(host):
    """One that gives half of what it is asked for: the deadline passes, and the balloon takes what else there is"""
    machine = start(host, cache="150,30,0,50")
    wait_cache(machine, "is here", lambda app: app["used_bytes"] == 150 * MIB)
    host.run("balloon", "guest", "170M")
    found = wait_cache(machine, "is short", lambda app: app["short"] > 0)
    tap.comment(f"{found}")
    # Then it takes half of that back.
    asked = harness.wait_until(lambda: (lambda asks: len(asks) > 1 and asks)(asks_of(machine)), "it is told of what counts")
    assert asked[1] == asked[0] - asked[0] // 2, asked
    assert 0 < found["given_bytes"] <= found["target_bytes"] <= asked[1] * MIB, (found, asked)
    clean(machine)


def one_that_waits_for_memory(host):
    """A guest that waits for what its balloon has taken, by its kernel's account and nothing else, gets it back by steps"""
    # It reads a file all over, by calls: these are no faults.
    machine = start(host, memory=384, cache="8,4", disk=dict(mib=180),
                    witness=dict(anon=60, cache=180, rate="max", hot=0, hotness=0, sequential=0, writes=0))
    harness.wait_until(lambda: guest(machine), "the guest is here")
    host.run("balloon", "guest", "150M")
    seen = []

    def look():
        machine.expect_clean()
        stats = machine.stats()
        seen.append((stats["guest"]["pressure_some_permille"] or 0, stats["balloon"]["held_bytes"] // MIB, stats["stats"]["guest_major_faults"]))
        return stats["balloon"]["eased"] >= 2 and not stats["guest"]["stalls"] and stats
    stats = harness.wait_until(look, "it has waited, and does so no more")
    held = stats["balloon"]["held_bytes"] // MIB
    most, waited = max(held for _, held, _ in seen), max(share for share, _, _ in seen)
    tap.comment(f"waited for up to {waited / 10:.0f}% of the time with up to {most} MiB in its balloon, of which {held} are left; eased "
                f"{stats['balloon']['eased']} times; {seen[-1][2] - seen[0][2]} major faults")
    assert stats["balloon"]["state"] == "easing" and waited >= 100 and held <= most - 40, (stats["balloon"], seen)
    clean(machine)


def overbookd_dies_at_each_step(host):
    """overbookd dies while an application is asked, when it has given, and while it takes back"""
    machine = start(host, cache="150,30,10")
    wait_cache(machine, "is here", lambda app: app["used_bytes"] == 150 * MIB)

    def renew():
        host.kill_daemon()
        clean(machine)
        host.start_daemon()
        return wait_cache(machine, "is here again", lambda app: True)

    host.run("balloon", "guest", "170M")
    wait_cache(machine, "is asked", lambda app: app["target_bytes"] > 0)
    found = renew()
    assert found["target_bytes"] > 0, found
    found = wait_cache(machine, "has given", lambda app: app["given_bytes"] > 30 * MIB and app["state"] != "asked")
    again = renew()
    assert again["given_bytes"] >= found["given_bytes"] - 2 * MIB, (found, again)
    harness.wait_until(lambda: machine.stats()["balloon"]["mode"] == "fixed", "the balloon is driven on")
    host.run("balloon", "guest", "off")
    wait_cache(machine, "takes back", lambda app: app["target_bytes"] < again["given_bytes"])
    renew()
    wait_cache(machine, "has it back", lambda app: app["state"] == "resting" and app["used_bytes"] == 150 * MIB)
    clean(machine)


def a_cut_is_met_by_an_application(host):
    """auto: a cut of the limit is met by what an application gives, not by eviction"""
    machine = start(host, options=["--balloon", "auto"], witness=dict(anon=40, rate=0))
    wait_cache(machine, "is here", lambda app: app["used_bytes"] == 150 * MIB)
    harness.wait_until(lambda: machine.stats()["balloon"]["state"] == "empty" and machine.stats()["stats"]["guest_known"], "the guest has had time to start in")
    cost = machine.host_bytes()
    host.run("limit", "guest", "190M", "--wait")
    stats = machine.stats()["stats"]
    assert cache(machine)["given_bytes"] > 20 * MIB, (cache(machine), stats)
    tap.comment(f"from {cost / MIB:.0f} to {stats['cost_bytes'] / MIB:.0f} MiB; {(stats['compressed_bytes'] + stats['swapped_bytes']) / MIB:.1f} MiB "
                f"evicted, {machine.stats()['balloon']['held_bytes'] / MIB:.0f} in the balloon, {cache(machine)}")
    clean(machine)
    host.run("limit", "guest", "none")
    wait_cache(machine, "has all it had", lambda app: app["state"] == "resting" and app["used_bytes"] == 150 * MIB)
    clean(machine)


def moved(source, name, mode):
    """The machine that goes on where the source has stopped, by way of a file. mode: of its balloon, from before it runs."""
    host, path = source.host, source.host.path(name + ".state")
    source.migrate(f"exec:cat >{path}")
    source.quit()
    machine = host.machine(name, **{**SETUP, "arguments": [*BALLOON, "-incoming", "defer"]})
    harness.wait_until(lambda: host.run("balloon", name, mode, check=False).returncode == 0, f"{name} is here")
    machine.qmp.command("migrate-incoming", uri=f"exec:cat {path}")
    machine.wait_running()
    return machine


def held_by_qemu(machine):
    """What its balloon holds, which overbookd hears of a moment later."""
    return SETUP["memory"] * MIB - machine.qmp.command("query-balloon")["actual"]


def questions(machine):
    """How much the application was asked to give, each time, while its guest was here."""
    return [int(line.split()[3]) * MIB for line in console(machine).splitlines() if line.startswith("asked to give")]


def a_machine_migrates(host):
    """A machine is migrated while an application is asked, when it has given, and while it takes back"""
    source = start(host, cache="150,30,5")
    wait_cache(source, "is here", lambda app: app["used_bytes"] == 150 * MIB)
    host.run("balloon", "guest", "170M")
    wait_cache(source, "is asked", lambda app: app["target_bytes"] > 30 * MIB and 5 * MIB < app["given_bytes"] < 20 * MIB)
    clean(source)

    # What it was asked for and has not given yet is asked for later. It is never more in all, and what is given stays given.
    machine = moved(source, "second", "170M")
    lowest = cache(machine)["used_bytes"] if cache(machine) else 150 * MIB

    def look(app):
        nonlocal lowest
        assert app["used_bytes"] < lowest + 10 * MIB, (app, lowest)
        lowest = min(lowest, app["used_bytes"])
        return app["given_bytes"] > 60 * MIB and app["state"] == "given"
    given = wait_cache(machine, "has given", look)
    asked, before = questions(machine), questions(source)
    tap.comment(f"asked for {[asked // MIB for asked in before]} MiB, then {[asked // MIB for asked in asked]}")
    assert max(asked) < before[-1] + SETUP["memory"] * MIB // 16, (before, asked)
    clean(machine)

    # What has been given is not asked for again, and not taken back.
    machine = moved(machine, "third", "170M")
    found = wait_cache(machine, "is here again", lambda app: machine.stats()["balloon"]["held_bytes"] >= 145 * MIB and
                       machine.stats()["balloon"]["target_bytes"] >= 145 * MIB)
    assert all(given["target_bytes"] < asked < before[-1] + SETUP["memory"] * MIB // 16 for asked in questions(machine)), questions(machine)
    assert found["used_bytes"] <= given["used_bytes"] and found["target_bytes"] >= given["target_bytes"], (given, found)
    clean(machine)

    # On the way back it is told of what the balloon has let go of: of a part, then, in the next machine, of more, and of the rest.
    told, held = found["target_bytes"], held_by_qemu(machine)

    def is_there(app):
        """Whether it has something back and not all; it is told of nothing that QEMU's balloon holds still."""
        now = held_by_qemu(machine)
        assert told - app["target_bytes"] <= held - now + 2 * MIB, (told, held, app, now)
        return 0 < app["target_bytes"] < told
    host.run("balloon", "third", "230M")
    wait_cache(machine, "takes back", is_there)
    machine = moved(machine, "fourth", "300M")
    wait_cache(machine, "takes more back", lambda app: is_there(app) and app["target_bytes"] < 30 * MIB)
    host.run("balloon", "fourth", "off")
    wait_cache(machine, "has it back", lambda app: not is_there(app) and app["state"] == "resting" and app["used_bytes"] == 150 * MIB)
    harness.wait_until(lambda: held_by_qemu(machine) == 0, "the balloon is empty")
    clean(machine)


def moved_together(machine):
    """MiB that are not free in pieces any more, by what overbook-guest says."""
    said = re.findall(r"(\d+) MiB were free in pieces .* moved together, (\d+) MiB are", console(machine))
    return sum(int(before) - int(after) for before, after in said)


def at_rest(machine):
    """What its memory costs when what was free since its boot has been reported: the guest's kernel does that within two seconds."""
    last, since = 0, 0

    def look():
        nonlocal last, since
        now = machine.host_bytes()
        if abs(now - last) > MIB:
            last, since = now, time.monotonic()
        return time.monotonic() - since > 5
    harness.wait_until(look, f"{machine.name}: nothing more comes or goes")
    return last


def pieces_are_moved_together(host):
    """50 MiB that are freed page by page come back to the host where overbook-guest has the kernel move them together, and nowhere else"""
    host.start_daemon()

    def start_one(name, lines="", **options):
        root = host.path(name + "-root")
        os.makedirs(root + "/etc")
        servers.write(root + "/etc/overbook-guest.conf", lines)
        servers.archive(root, host.path(name + ".cpio"))
        # In large pages nothing would be free before all of one is. What is read meanwhile is not filled again.
        return host.machine(name, memory=320, witness=dict(anon=100, rate=1000, writes=0), initrd=host.path(name + ".cpio"),
                            append="guest_agent transparent_hugepage=never", **options)
    moved, off, silent = machines = start_one("moved"), start_one("off", "compact off\n"), start_one("silent", arguments=BALLOON)
    for machine in machines:
        machine.wait_ready()
    harness.wait_until(lambda: all(guest(machine) for machine in machines), "their guests' overbook-guest is here")
    before = {machine: at_rest(machine) for machine in machines}
    for machine in machines:
        assert int(machine.ask("sieve", "sieved").values["pages"]) == 50 * 256
    began = time.monotonic()
    # How much its kernel moves is the kernel's: 45 MiB mostly, 20 now and then. That much comes back.
    harness.wait_until(lambda: moved_together(moved) > 15 and before[moved] - moved.host_bytes() > (moved_together(moved) - 5) * MIB,
                       "what was freed, and moved together, has come back")
    tap.comment(f"{(before[moved] - moved.host_bytes()) / MIB:.0f} MiB after {time.monotonic() - began:.0f} s: {moved_together(moved)} moved together")
    for machine in off, silent:
        assert machine.host_bytes() > before[machine] - 10 * MIB and "moved together" not in console(machine), machine.name
    for machine in machines:
        machine.check()
        machine.ask("touch", "touched")
        machine.check()


def looks(machine, server):
    """What the looks after a server's data have found, one after the other."""
    return [words[2] for line in console(machine).splitlines() if (words := line.split())[:2] == ["SERVERS", server] and len(words) == 3]


def apps(machine):
    found = guest(machine)
    return {app["name"]: app for app in found["applications"]} if found else {}


def servers_give_and_get_it_back(host):
    """Redis and MariaDB give what the balloon is to take, the host has it, and they hear of memory when it is there again"""
    if servers.missing():
        tap.skip(servers.missing())
    host.start_daemon()
    machine = host.machine("guest", memory=704, witness=dict(anon=20, rate=0), arguments=BALLOON, append="guest_agent",
                           initrd=servers.make(host.directory))
    machine.wait_ready()

    def until(condition, what, timeout=180):
        def look():
            machine.expect_clean()
            return condition()
        try:
            return harness.wait_until(look, what, timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {apps(machine)}, {machine.stats()['balloon']}") from None

    until(lambda: looks(machine, "mariadb")[-1:] == [str(servers.ROWS)] and looks(machine, "redis")[-1:] == ["8000"], "the servers are filled", 200)
    until(lambda: len(apps(machine)) == 2 and apps(machine)["redis"]["used_bytes"] > 120 * MIB and apps(machine)["mariadb"]["used_bytes"] > 50 * MIB,
          "the guest tells of them")
    before, found = machine.host_bytes(), apps(machine)
    assert all(app["state"] == "resting" and not app["error"] for app in found.values()), found
    began = time.monotonic()

    def shrink(missing):
        """So much is wanted of the guest beyond what it has to spare."""
        stats = machine.stats()
        hold = stats["balloon"]["held_bytes"] + stats["guest"]["available_bytes"] - 704 * MIB // 16 + missing
        host.run("balloon", "guest", f"{704 - hold // MIB}M")
        return hold
    hold = shrink(30 * MIB)
    until(lambda: apps(machine)["redis"]["given_bytes"] > 20 * MIB and apps(machine)["redis"]["state"] == "given" and
          machine.stats()["balloon"]["held_bytes"] >= hold - 8 * MIB, "Redis gives, which suffers less, and the balloon has it")
    # How much is missing the guest decides; MariaDB is not asked before Redis has been asked for all that it could give.
    found = apps(machine)
    assert not found["mariadb"]["target_bytes"] or found["redis"]["target_bytes"] >= found["redis"]["could_bytes"] - MIB, found
    left = found["mariadb"]["could_bytes"] - found["mariadb"]["target_bytes"]
    if left > 20 * MIB:
        hold = shrink(found["redis"]["could_bytes"] - found["redis"]["target_bytes"] + left // 2)
    until(lambda: apps(machine)["mariadb"]["given_bytes"] > 10 * MIB and apps(machine)["mariadb"]["state"] == "given" and
          machine.stats()["balloon"]["held_bytes"] >= hold - 8 * MIB, "MariaDB gives, and the balloon has it")
    until(lambda: machine.host_bytes() < before - 120 * MIB, "the host has it")
    seconds, given = time.monotonic() - began, apps(machine)
    counted = len(looks(machine, "mariadb"))
    until(lambda: len(looks(machine, "mariadb")) >= counted + 2 and looks(machine, "redis")[-1] != "8000", "they work on")
    tap.comment(f"given {given['redis']['given_bytes'] / MIB:.0f} MiB by Redis, {given['mariadb']['given_bytes'] / MIB:.0f} by MariaDB; "
                f"{(before - machine.host_bytes()) / MIB:.0f} MiB back on the host after {seconds:.0f} s; {looks(machine, 'redis')[-1]} of 8000 keys left")
    clean(machine)
    # Host memory first: nobody is told of memory that the balloon holds still.
    stats = machine.stats()
    held, told = stats["balloon"]["held_bytes"], sum(app["target_bytes"] for app in apps(machine).values())
    host.run("balloon", "guest", "off")
    while apps(machine)["redis"]["target_bytes"] or apps(machine)["mariadb"]["target_bytes"]:
        stats = machine.stats()
        now = sum(app["target_bytes"] for app in stats["guest"]["applications"])
        assert told - now <= held - stats["balloon"]["held_bytes"] + 2 * MIB, (told, now, held, stats)
        machine.expect_clean()
        assert time.monotonic() < began + 600, apps(machine)
        time.sleep(0.3)
    until(lambda: machine.stats()["balloon"]["held_bytes"] == 0 and all(app["state"] == "resting" and not app["error"] for app in apps(machine).values()),
          "all is as it was")
    assert set(looks(machine, "mariadb")) == {str(servers.ROWS)}, looks(machine, "mariadb")
    clean(machine)


sys.exit(tap.main([an_application_gives_and_the_host_has_it, one_that_gives_half, one_that_waits_for_memory, overbookd_dies_at_each_step,
                   a_cut_is_met_by_an_application, a_machine_migrates, pieces_are_moved_together, servers_give_and_get_it_back]))
