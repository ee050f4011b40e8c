/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The balloon, the agent's part: asks QEMU how it is, by QMP, and tells it what the balloon is to hold. What that is, is
 * decided by overbookd (daemon/balloon.c); there is no policy here.
 *
 * Why here. The monitor lies in the machine's directory, which under libvirt belongs to another user than overbookd's, and
 * takes one connection at a time, which the agent needs anyhow to stop the machine (qmp.c). So overbookd orders over the
 * link (BALLOON) and reads the outcome in STATS; it needs no right to enter anybody's directory, and a machine's monitor
 * stays its own.
 *
 * A look is a row of commands, one on its way at a time, none of them waited for: the link's thread polls our descriptor as
 * it polls its own, since QEMU's main loop may be busy for as long as it likes, or wait for a page.
 *
 *     find        qom-list /machine/peripheral and peripheral-anon: the balloon's path, which is then kept
 *     interval    how often QEMU asks the guest for its statistics; somebody else's shorter interval is left alone, and what
 *                 was there before comes back when nobody drives the balloon any more
 *     memory      query-memory-size-summary: what the machine has; QMP counts what is left to the guest, we what it gives
 *     target      balloon, when what is ordered has not been said yet
 *     actual      query-balloon: what the guest says it has given
 *     statistics  guest-stats, while the balloon is driven
 *     status      x-query-virtio-status, which QEMU has since 7.2. It is the longest of all, and a driver that has just told statistics is there:
 *                 then STATUS_NS may go by
 *
 * An answer that fails ends the look where what follows cannot do without it, and means "not known" elsewhere. One that
 * does not come for SILENCE_NS ends the connection. The connection is kept between looks: to open and close it each time
 * would make QEMU, where nobody else has a monitor open, drop descriptors of -add-fd that nobody uses yet.
 *
 * Looks are made while overbookd is there and has ordered any; they are as frequent as it says, and more frequent for GOING_NS
 * while the balloon goes to a target that was just set: the next step waits for it to be there. When overbookd goes the balloon
 * keeps its target. What overbookd knows of a machine's balloon it is told again by us (BALLOON_SET), mode and target.
 *
 * A guest that is reset starts with all its memory, and at once: QEMU would go on telling its new driver what the balloon is to hold, and it may be there before the
 * next look. So QEMU's event RESET makes the target 0, also when no overbookd is there, and until overbookd has ordered that itself a guest is said to have no driver,
 * as it has none at that moment: the balloon is led to its goal from the beginning. A new driver that has nothing to do says nothing, and QEMU goes on showing
 * what the former one has said: that counts as nothing until it changes, or is what QEMU was told since.
 *
 * An order may change while QEMU's answer to the former one is awaited, and an answer may be lost with the connection. So what
 * counts as taken is what was asked, and after a lost answer QEMU is asked again, whatever is ordered.
 *
 * Numbers are the guest's, texts QEMU's: neither is believed further than its type. All this is the link thread's own.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/json.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"

#define SILENCE_NS   (10 * OB_NS_PER_SEC)
#define RETRY_NS     OB_NS_PER_SEC /* QEMU does not listen yet */
#define SOON_NS      (200 * OB_NS_PER_MS) /* to the next look, while the balloon goes to a new target: */
#define GOING_NS     (5 * OB_NS_PER_SEC)  /* for so long */
#define STATUS_NS    (10 * OB_NS_PER_SEC)
#define THERE        (1ull << 20)         /* so near to the target it is there */
#define ANSWER_MAX   (64u << 10) /* bytes of the longest answer */
#define LEAST_BYTES  (16ull << 20) /* is left to the guest at least, whatever is ordered */
#define UNKNOWN      UINT64_MAX  /* QEMU's word for what a guest does not tell */

struct step {
	/* Writes the command. Returns its length, or 0: it is not needed. */
	int (*ask)(char *buf, size_t size);
	/* The answer; NULL: it was an error. Returns 0, or -1: this look is over. */
	int (*take)(const struct ob_json *answer);
};

static struct {
	int fd;
	int has_greeting;       /* 1: seen; 2: negotiated */
	const struct step *step; /* whose answer is waited for; NULL: none */
	uint64_t since_ns;      /* when we have asked */
	uint64_t next_ns;       /* when the next look is due */
	int is_ordered;         /* by the overbookd that is connected */
	struct ob_wire_balloon order;
	int has_reset;          /* the guest, and what was ordered before does not count */
	uint64_t stale_bytes;   /* what QEMU says is in it since then; 0: nothing */
	uint64_t asked_bytes;   /* what QEMU was told last to have in it */
	uint64_t set_bytes;     /* what it took last from us, 0: nothing; UNKNOWN: its answer was lost */
	uint64_t set_ns;        /* when */
	unsigned asked_s;       /* the interval that it was told last */
	unsigned interval_s, before_s; /* of QEMU's questions: as we have set it, 0: not at all; as it was */
	int knows_before;
	char path[192];         /* the virtio device's; empty: to be found */
	uint64_t last_update;   /* by QEMU's clock */
	int has_news;           /* this look has found statistics that are new */
	uint64_t status_ns;     /* when status was told */
	uint32_t status;        /* flags by that; without a driver it counts no longer than a look */
	uint32_t flags;         /* of the look that is under way */
	struct ob_stats seen;   /* only what begins with balloon_, guest_ and machine_ */
	int is_skipping;        /* a line that is too long */
	size_t used;
	char in[ANSWER_MAX];
} balloon = { .fd = -1, .order.look_ms = OB_WIRE_LOOK_MAX_MS };

/* --- the commands of a look --- */

static int is_plain(struct ob_json text)
{
	for (const char *at = text.at + 1; at < text.end - 1; at++)
		if (!((*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') || (*at >= '0' && *at <= '9') || strchr("_.-[]", *at)))
			return 0;
	return text.end - text.at > 2 && text.end - text.at < 130;
}

static int find_in(const struct ob_json *answer, const char *folder)
{
	struct ob_json item, name, type;

	for (int r = answer ? ob_json_item(*answer, &item, 1) : -ENOENT; r == 0; r = ob_json_item(*answer, &item, 0)) {
		if (ob_json_member(item, "name", &name) < 0 || ob_json_member(item, "type", &type) < 0 ||
		    !ob_json_begins(type, "child<virtio-balloon") || !ob_json_begins(name, "") || !is_plain(name))
			continue;
		snprintf(balloon.path, sizeof(balloon.path), "/machine/%s/%.*s%s", folder, (int)(name.end - name.at - 2), name.at + 1,
			 ob_json_begins(type, "child<virtio-balloon-device>") ? "" : "/virtio-backend");
		balloon.interval_s = balloon.knows_before = 0;
		return 0;
	}
	return 0;
}

static int ask_named(char *buf, size_t size)
{
	if (balloon.path[0])
		return 0;
	return snprintf(buf, size, "{\"execute\":\"qom-list\",\"arguments\":{\"path\":\"/machine/peripheral\"}}\n");
}

static int take_named(const struct ob_json *answer)
{
	return find_in(answer, "peripheral");
}

static int ask_anonymous(char *buf, size_t size)
{
	if (balloon.path[0])
		return 0;
	return snprintf(buf, size, "{\"execute\":\"qom-list\",\"arguments\":{\"path\":\"/machine/peripheral-anon\"}}\n");
}

static int take_anonymous(const struct ob_json *answer)
{
	find_in(answer, "peripheral-anon");
	return balloon.path[0] ? 0 : -1;
}

static unsigned wanted_interval(void)
{
	unsigned seconds = balloon.order.look_ms / 1000;

	if (balloon.order.mode != OB_BALLOON_AUTO && balloon.order.mode != OB_BALLOON_FIXED && !(balloon.order.flags & OB_WIRE_BALLOON_DRIVE))
		return 0;
	seconds = seconds ? seconds : 1;
	return balloon.before_s && balloon.before_s < seconds ? balloon.before_s : seconds;
}

static int ask_before(char *buf, size_t size)
{
	if (balloon.knows_before || !wanted_interval())
		return 0;
	return snprintf(buf, size, "{\"execute\":\"qom-get\",\"arguments\":{\"path\":\"%s\",\"property\":\"guest-stats-polling-interval\"}}\n",
			balloon.path);
}

/* The device has gone: the next look finds the new one, if there is one. */
static int lose_path(void)
{
	balloon.path[0] = '\0';
	balloon.status = 0;
	return -1;
}

static int take_before(const struct ob_json *answer)
{
	uint64_t seconds = 0;

	if (!answer)
		return lose_path();
	(void)(ob_json_number(*answer, &seconds) < 0);
	balloon.before_s = (unsigned)OB_MIN(seconds, (uint64_t)86400);
	balloon.knows_before = 1;
	return 0;
}

static int ask_interval(char *buf, size_t size)
{
	unsigned seconds = wanted_interval();

	if (!balloon.knows_before || seconds == balloon.interval_s)
		return 0;
	balloon.asked_s = seconds;
	return snprintf(buf, size, "{\"execute\":\"qom-set\",\"arguments\":{\"path\":\"%s\",\"property\":\"guest-stats-polling-interval\","
			"\"value\":%u}}\n", balloon.path, seconds ? seconds : balloon.before_s);
}

static int take_interval(const struct ob_json *answer)
{
	if (!answer)
		return lose_path();
	balloon.interval_s = balloon.asked_s;
	balloon.knows_before = balloon.interval_s != 0;
	return 0;
}

static int ask_memory(char *buf, size_t size)
{
	return snprintf(buf, size, "{\"execute\":\"query-memory-size-summary\"}\n");
}

static uint64_t number_of(struct ob_json object, const char *key, uint64_t otherwise)
{
	struct ob_json value;
	uint64_t number;

	return ob_json_member(object, key, &value) == 0 && ob_json_number(value, &number) == 0 ? number : otherwise;
}

static int take_memory(const struct ob_json *answer)
{
	if (!answer)
		return -1;
	balloon.seen.machine_bytes = number_of(*answer, "base-memory", 0) + number_of(*answer, "plugged-memory", 0);
	balloon.seen.balloon_bytes = OB_MIN(balloon.seen.balloon_bytes, balloon.seen.machine_bytes);
	return 0;
}

static int ask_target(char *buf, size_t size)
{
	uint64_t machine = balloon.seen.machine_bytes, target = balloon.has_reset ? 0 : balloon.order.target_bytes, left;

	if (!(balloon.order.flags & OB_WIRE_BALLOON_DRIVE) || target == balloon.set_bytes || machine <= LEAST_BYTES)
		return 0;
	left = target < machine - LEAST_BYTES ? machine - target : LEAST_BYTES;
	balloon.asked_bytes = target;
	return snprintf(buf, size, "{\"execute\":\"balloon\",\"arguments\":{\"value\":%" PRIu64 "}}\n", left);
}

static int take_target(const struct ob_json *answer)
{
	if (answer) {
		balloon.set_bytes = balloon.asked_bytes;
		balloon.set_ns = ob_now_ns();
	}
	return 0;
}

/* What is said to be taken: never 0 while there may be something of ours in the balloon. */
static uint64_t taken_bytes(void)
{
	return balloon.set_bytes == UNKNOWN ? OB_MAX(balloon.asked_bytes, 1ull) : balloon.set_bytes;
}

static int ask_actual(char *buf, size_t size)
{
	return snprintf(buf, size, "{\"execute\":\"query-balloon\"}\n");
}

static int take_actual(const struct ob_json *answer)
{
	uint64_t left = answer ? number_of(*answer, "actual", UNKNOWN) : UNKNOWN, held;

	if (!answer)
		return lose_path();
	balloon.flags |= OB_BALLOON_DEVICE;
	held = balloon.seen.machine_bytes - OB_MIN(left, balloon.seen.machine_bytes);
	if (balloon.has_reset)
		balloon.stale_bytes = held;
	if (held != balloon.stale_bytes || held == balloon.set_bytes)
		balloon.stale_bytes = 0;
	balloon.seen.balloon_bytes = balloon.stale_bytes ? 0 : held;
	return 0;
}

static int ask_statistics(char *buf, size_t size)
{
	/* While nobody drives it QEMU does not ask the guest, and what it said at its start is not of now. */
	if (!wanted_interval()) {
		balloon.seen.guest_known = 0;
		return 0;
	}
	return snprintf(buf, size, "{\"execute\":\"qom-get\",\"arguments\":{\"path\":\"%s\",\"property\":\"guest-stats\"}}\n", balloon.path);
}

static int take_statistics(const struct ob_json *answer)
{
	static const char *const names[] = {
		"stat-total-memory", "stat-free-memory", "stat-available-memory", "stat-disk-caches", "stat-swap-in", "stat-swap-out",
		"stat-major-faults",
	};
	uint64_t *const values[] = {
		&balloon.seen.guest_total_bytes, &balloon.seen.guest_free_bytes, &balloon.seen.guest_available_bytes, &balloon.seen.guest_caches_bytes,
		&balloon.seen.guest_swap_in_bytes, &balloon.seen.guest_swap_out_bytes, &balloon.seen.guest_major_faults,
	};
	struct ob_json stats;
	uint64_t update;

	if (!answer)
		return lose_path();
	update = number_of(*answer, "last-update", 0);
	if (!update || update == balloon.last_update || ob_json_member(*answer, "stats", &stats) < 0)
		return 0;
	balloon.last_update = update;
	balloon.has_news = 1;
	balloon.seen.guest_updates++;
	balloon.seen.guest_known = 0;
	for (size_t i = 0; i < OB_ARRAY_LEN(names); i++) {
		uint64_t value = number_of(stats, names[i], UNKNOWN);

		*values[i] = value == UNKNOWN ? 0 : value;
		balloon.seen.guest_known |= value == UNKNOWN ? 0 : 1ull << i;
	}
	return 0;
}

static int ask_status(char *buf, size_t size)
{
	if (balloon.has_news && (balloon.status & OB_BALLOON_DRIVER) && ob_now_ns() - balloon.status_ns < STATUS_NS) {
		balloon.flags |= balloon.status;
		return 0;
	}
	balloon.status = 0;
	return snprintf(buf, size, "{\"execute\":\"x-query-virtio-status\",\"arguments\":{\"path\":\"%s\"}}\n", balloon.path);
}

/* Whether the list `list` in the member `part` has a text that begins with word. */
static int has_text(struct ob_json answer, const char *part, const char *list, const char *word)
{
	struct ob_json object, array, item;

	if (ob_json_member(answer, part, &object) < 0 || ob_json_member(object, list, &array) < 0)
		return 0;
	for (int r = ob_json_item(array, &item, 1); r == 0; r = ob_json_item(array, &item, 0))
		if (ob_json_begins(item, word))
			return 1;
	return 0;
}

static int take_status(const struct ob_json *answer)
{
	static const struct {
		uint32_t flag;
		const char *part, *list, *word;
	} facts[] = {
		{ OB_BALLOON_DRIVER, "status", "statuses", "VIRTIO_CONFIG_S_DRIVER_OK" },
		{ OB_BALLOON_REPORTS, "guest-features", "dev-features", "VIRTIO_BALLOON_F_REPORTING" },
		{ OB_BALLOON_STATISTICS, "guest-features", "dev-features", "VIRTIO_BALLOON_F_STATS_VQ" },
		{ OB_BALLOON_OFFERED, "host-features", "dev-features", "VIRTIO_BALLOON_F_REPORTING" },
	};

	/* The device always offers statistics: where it seems not to, its features are told in words that are not known here. */
	if (!answer || !has_text(*answer, "host-features", "dev-features", "VIRTIO_BALLOON_F_STATS_VQ"))
		return 0;
	balloon.status = OB_BALLOON_STATUS;
	for (size_t i = 0; i < OB_ARRAY_LEN(facts); i++)
		if (has_text(*answer, facts[i].part, facts[i].list, facts[i].word))
			balloon.status |= facts[i].flag;
	balloon.flags |= balloon.status;
	balloon.status_ns = ob_now_ns();
	return 0;
}

static const struct step steps[] = {
	{ ask_named, take_named }, { ask_anonymous, take_anonymous }, { ask_before, take_before }, { ask_interval, take_interval },
	{ ask_memory, take_memory }, { ask_target, take_target }, { ask_actual, take_actual }, { ask_statistics, take_statistics },
	{ ask_status, take_status },
};

/* --- the connection --- */

void ob_balloon_drop(void)
{
	ob_fd_close(&balloon.fd);
	/* Whether QEMU has done what was asked last is not known. */
	if (balloon.step && balloon.step->ask == ask_target)
		balloon.set_bytes = UNKNOWN;
	if (balloon.knows_before)
		balloon.interval_s = UINT_MAX;
	balloon.step = NULL;
	balloon.status = 0;
	balloon.used = 0;
	balloon.has_greeting = balloon.is_skipping = 0;
}

static void send_command(const char *text, size_t length)
{
	balloon.since_ns = ob_now_ns();
	if (send(balloon.fd, text, length, MSG_NOSIGNAL) != (ssize_t)length)
		ob_balloon_drop();
}

/* Whether it is on its way to a target that is new. */
static int is_going(uint64_t now_ns)
{
	uint64_t is = balloon.seen.balloon_bytes, target = balloon.set_bytes;

	return balloon.set_ns && now_ns - balloon.set_ns < GOING_NS && (is > target ? is - target : target - is) > THERE;
}

static void end_look(void)
{
	uint64_t now_ns = ob_now_ns();

	if (is_going(now_ns))
		balloon.next_ns = OB_MIN(balloon.next_ns, now_ns + SOON_NS);
	balloon.step = NULL;
	if (balloon.has_reset)
		balloon.flags = (balloon.flags | OB_BALLOON_STATUS) & ~OB_BALLOON_DRIVER;
	balloon.seen.balloon_flags = balloon.flags | OB_BALLOON_LOOKED;
}

/* Asks the next thing, from `step` on, that is needed. */
static void go_on(const struct step *step)
{
	char command[512];

	for (; step < steps + OB_ARRAY_LEN(steps); step++) {
		int length = step->ask(command, sizeof(command));

		if (length > 0 && length < (int)sizeof(command)) {
			balloon.step = step;
			send_command(command, (size_t)length);
			return;
		}
	}
	end_look();
}

static void begin_look(void)
{
	balloon.next_ns = ob_now_ns() + balloon.order.look_ms * OB_NS_PER_MS;
	balloon.flags = 0;
	balloon.has_news = 0;
	go_on(steps);
}

static void take_answer(const struct ob_json *answer)
{
	const struct step *step = balloon.step;

	if (balloon.has_greeting == 1) {
		balloon.has_greeting = 2;
		begin_look();
	} else if (step && step->take(answer) < 0) {
		end_look();
	} else if (step) {
		go_on(step + 1);
	}
}

static void take_event(struct ob_json name)
{
	if (!ob_json_begins(name, "RESET"))
		return;
	balloon.status = 0;
	if (!(balloon.order.flags & OB_WIRE_BALLOON_DRIVE) || !balloon.order.target_bytes)
		return;
	balloon.has_reset = 1;
	balloon.next_ns = 0;
}

static void take_line(const char *line, size_t length)
{
	static const char negotiate[] = "{\"execute\":\"qmp_capabilities\"}\n";
	struct ob_json whole, value;

	if (ob_json_whole(line, length, &whole) < 0) {
		ob_balloon_drop();
	} else if (!balloon.has_greeting) {
		if (ob_json_member(whole, "QMP", &value) == 0) {
			balloon.has_greeting = 1;
			send_command(negotiate, sizeof(negotiate) - 1);
		}
	} else if (ob_json_member(whole, "return", &value) == 0) {
		take_answer(&value);
	} else if (ob_json_member(whole, "error", &value) == 0) {
		take_answer(NULL);
	} else if (ob_json_member(whole, "event", &value) == 0) {
		take_event(value);
	}
}

/* Hands on the lines that are there whole; a longer one than there is room for counts as an error. */
static void take_lines(void)
{
	size_t at = 0;
	char *end;

	while (balloon.fd >= 0 && (end = memchr(balloon.in + at, '\n', balloon.used - at))) {
		size_t next = (size_t)(end - balloon.in) + 1;

		if (balloon.is_skipping)
			take_answer(NULL);
		else
			take_line(balloon.in + at, next - at - 1);
		balloon.is_skipping = 0;
		at = next;
	}
	if (balloon.fd < 0)
		return;
	balloon.used -= at;
	memmove(balloon.in, balloon.in + at, balloon.used);
	if (balloon.used == sizeof(balloon.in)) {
		balloon.is_skipping = 1;
		balloon.used = 0;
	}
}

static void connect_now(void)
{
	int fd = ob_qmp_connect();

	balloon.since_ns = ob_now_ns();
	balloon.next_ns = balloon.since_ns + RETRY_NS;
	balloon.fd = fd < 0 ? -1 : fd;
}

/* --- for the link --- */

int ob_balloon_fd(void)
{
	return balloon.fd;
}

void ob_balloon_readable(void)
{
	ssize_t n = read(balloon.fd, balloon.in + balloon.used, sizeof(balloon.in) - balloon.used);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		ob_balloon_drop();
		return;
	}
	balloon.used += (size_t)n;
	take_lines();
}

static int is_waiting(void)
{
	return balloon.fd >= 0 && (balloon.has_greeting < 2 || balloon.step);
}

uint64_t ob_balloon_due_ns(void)
{
	if (is_waiting())
		return balloon.since_ns + SILENCE_NS;
	return balloon.is_ordered || (balloon.has_reset && balloon.set_bytes) ? balloon.next_ns : UINT64_MAX;
}

void ob_balloon_turn(void)
{
	if (ob_now_ns() < ob_balloon_due_ns())
		return;
	if (is_waiting()) {
		ob_log_limited(OB_LOG_DEBUG, "QEMU's monitor has not answered for %llu s", (unsigned long long)(SILENCE_NS / OB_NS_PER_SEC));
		ob_balloon_drop();
		balloon.next_ns = ob_now_ns() + RETRY_NS;
	} else if (balloon.fd < 0) {
		connect_now();
	} else {
		begin_look();
	}
}

void ob_balloon_obey(const struct ob_wire_balloon *order)
{
	int is_news = !balloon.is_ordered || order->target_bytes != balloon.order.target_bytes || order->flags != balloon.order.flags ||
		      order->mode != balloon.order.mode || order->look_ms < balloon.order.look_ms;

	balloon.order = *order;
	balloon.is_ordered = 1;
	if (!order->target_bytes)
		balloon.has_reset = 0;
	if (is_news)
		balloon.next_ns = 0;
}

void ob_balloon_forget(void)
{
	balloon.is_ordered = 0;
}

int ob_balloon_announce(void)
{
	struct ob_wire_msg *out = ob_link_message();

	if (balloon.order.mode == OB_BALLOON_DEFAULT)
		balloon.order.mode = ob_agent.balloon;
	memset(&out->balloon, 0, sizeof(out->balloon));
	out->balloon.mode = balloon.order.mode;
	out->balloon.size_bytes = balloon.order.size_bytes;
	out->balloon.target_bytes = taken_bytes();
	return ob_link_send(OB_WIRE_BALLOON_SET);
}

void ob_balloon_fill(struct ob_stats *stats)
{
	stats->balloon_flags = balloon.seen.balloon_flags;
	stats->balloon_bytes = balloon.seen.balloon_bytes;
	stats->balloon_target_bytes = taken_bytes();
	stats->machine_bytes = balloon.seen.machine_bytes;
	stats->guest_updates = balloon.seen.guest_updates;
	stats->guest_known = balloon.seen.guest_known;
	stats->guest_total_bytes = balloon.seen.guest_total_bytes;
	stats->guest_free_bytes = balloon.seen.guest_free_bytes;
	stats->guest_available_bytes = balloon.seen.guest_available_bytes;
	stats->guest_caches_bytes = balloon.seen.guest_caches_bytes;
	stats->guest_swap_in_bytes = balloon.seen.guest_swap_in_bytes;
	stats->guest_swap_out_bytes = balloon.seen.guest_swap_out_bytes;
	stats->guest_major_faults = balloon.seen.guest_major_faults;
}
