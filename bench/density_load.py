# SPDX-License-Identifier: GPL-2.0-or-later
"""The load of bench/density: four kinds of guests, and whoever asks them.

Guests are by turns of these kinds, so that each multiple of four has the same mix:

    serving   much cold memory, a small hot set, requests all the time
    reading   half of it is page cache of an image that all guests of this kind have; requests go there too
    waking    as serving, but nobody asks for a while, and then there is a burst of requests
    idle      as serving, asked seldom

Of all anonymous memory half is as in the other guests (the witness's same=50), and so are kernel and programs. A request is the
witness's order "request": the guest checks every byte of so many pages of its hot sets, of reading and idle guests one in a hundred
anywhere, writes one in ten of them anew, and answers. It is asked at a time that was drawn beforehand, the same for all sides and
rounds, or, if the one before has not been answered by then, as soon as it has: a request takes from when it was due to when its
answer is read.
"""
import collections
import random
import threading
import time

from lib import Failure, Unfit

MEMORY_MIB, IMAGE_MIB = 176, 32
REQUEST_PAGES = 64
MIX = {"random_percent": 35, "zero_percent": 5}
COMMON = "same=50,random=35,zero=5,rate=0,threads=1,writes=10,sequential=0"
GRACE_S = 15  # after the last request was due; who has no answer by then gets none

# burst: seconds from one to the next, and how many requests; rate is that of a burst then.
Kind = collections.namedtuple("Kind", "name parameters rate burst")
KINDS = (Kind("serving", "anon=84,hot=12,hotness=100", 8, None),
         Kind("reading", f"anon=48,image={IMAGE_MIB},hot=12,hotness=99", 8, None),
         Kind("waking", "anon=84,hot=8,hotness=100", 40, (20, 160)),
         Kind("idle", "anon=84,hot=4,hotness=99", 1, None))


def kind_of(index):
    return KINDS[index % len(KINDS)]


def parameters_of(index):
    return f"seed={index + 1},{kind_of(index).parameters},{COMMON}"


def requests_a_second(count):
    """Of so many guests, on average."""
    return sum(kind.burst[1] / kind.burst[0] if kind.burst else kind.rate for kind in map(kind_of, range(count)))


def due_times(index, seconds):
    """When a guest is asked, in seconds from the beginning."""
    kind, draw = kind_of(index), random.Random(index)
    period, number = kind.burst or (seconds, seconds * kind.rate * 2)
    times, start = [], draw.random() * period if kind.burst else 0
    while start < seconds:
        at = start
        for _ in range(number):
            at += draw.expovariate(kind.rate)
            times.append(at)
        start += period
    return sorted(at for at in times if at < seconds)


class Caller(threading.Thread):
    """Asks one guest. answers: (when it was due, seconds until the answer); of one that is not answered, those until it was given up."""

    def __init__(self, machine, times, begin, end):
        super().__init__(daemon=True)
        self.machine, self.times, self.begin, self.end = machine, times, begin, end
        self.answers, self.unanswered, self.trouble = [], 0, None
        self.start()

    def run(self):
        answered = None
        for due in self.times:
            time.sleep(max(0.0, max(self.begin + due, answered or 0) - time.monotonic()))
            answered = None if self.trouble or time.monotonic() > self.end else self.ask()
            if answered is None:
                self.unanswered += 1
            self.answers.append((due, (answered or time.monotonic()) - self.begin - due))

    def ask(self):
        """When it was answered, or will have been, or None."""
        machine = self.machine
        after = len(machine.lines)
        try:
            machine.tell(f"request {REQUEST_PAGES}")
            line = machine.wait_line("answered", after, self.end - time.monotonic())[1]
            if line.values["wrong"] != "0":
                raise Failure(f"{machine.name}: {line.values['wrong']} pages of a request were wrong")
            return line.when + machine.besides_s()
        except (Failure, Unfit, OSError) as reason:
            # That it is late is a figure; all else is trouble.
            if time.monotonic() < self.end:
                self.trouble = reason
            return None


class Load:
    """Requests to all machines, from now on, for so many seconds."""

    def __init__(self, machines, seconds):
        self.begin = time.monotonic()
        end = self.begin + seconds + GRACE_S
        self.callers = [Caller(machine, due_times(i, seconds), self.begin, end) for i, machine in enumerate(machines)]

    def wait(self, seconds):
        """Until so long after the beginning."""
        time.sleep(max(0.0, self.begin + seconds - time.monotonic()))

    def finish(self, since):
        """Seconds that the requests took that were due after `since`, in order, for each kind; and how many had no answer."""
        took = {kind.name: [] for kind in KINDS}
        for i, caller in enumerate(self.callers):
            caller.join()
            if caller.trouble:
                raise caller.trouble
            took[kind_of(i).name] += [seconds for due, seconds in caller.answers if due >= since]
        return {name: sorted(times) for name, times in took.items()}, sum(caller.unanswered for caller in self.callers)


def percentile(times, percent):
    """By the nearest rank."""
    return times[max(-(-len(times) * percent // 100), 1) - 1]
