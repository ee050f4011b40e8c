/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon_bed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "daemon/api.h"
#include "daemon/arbiter.h"
#include "daemon/link.h"
#include "daemon/runtime.h"
#include "daemon/share_internal.h"
#include "fuzz.h"

#define BED_MACHINES 64   /* whose limits are watched */
#define TURNS_MAX    4096 /* of the loop, before it counts as never at rest */

static struct bed the_bed;
static uint64_t now_ns = 1000 * OB_NS_PER_SEC;

/* In the place of base/clock.c. */
uint64_t ob_now_ns(void)
{
	return now_ns;
}

static void start(struct bed *bed)
{
	struct ob_daemon *daemon = &bed->daemon;
	struct ob_error err = { 0 };
	int r;

	if (!getenv("OVERBOOK_LOG"))
		ob_log_set_level((enum ob_log_level)1);
	*daemon = (struct ob_daemon){ .lock_fd = -1, .agents_fd = -1, .clients_fd = -1, .config = ob_config_default };
	r = ob_runtime_claim(daemon, fuzz_directory(), &err);
	FUZZ_CHECK(r == 0 && sd_event_new(&daemon->event) >= 0, "%s", err.text);
	r = ob_share_init(daemon, &err);
	r = r < 0 ? r : ob_arbiter_init(daemon, &err);
	r = r < 0 ? r : ob_runtime_listen(daemon, &err);
	r = r < 0 ? r : ob_link_listen(daemon, &err);
	r = r < 0 ? r : ob_api_listen(daemon, &err);
	FUZZ_CHECK(r == 0, "%s", err.text);
	sd_event_source_set_enabled(daemon->tick_source, SD_EVENT_OFF);
	for (unsigned i = 0; i < BED_AGENTS; i++)
		bed->agent[i].fd = -1;
	for (unsigned i = 0; i < BED_CLIENTS; i++)
		bed->client[i].fd = -1;
}

struct bed *bed_get(uint64_t budget_bytes)
{
	if (!the_bed.daemon.event)
		start(&the_bed);
	the_bed.daemon.config.budget_bytes = budget_bytes;
	return &the_bed;
}

static int connect_to(const char *path, int type)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	memcpy(address.sun_path, path, strlen(path) + 1);
	FUZZ_CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0, "%s: %s", path, strerror(errno));
	return fd;
}

void bed_agent_connect(struct bed *bed, unsigned index)
{
	bed_agent_close(bed, index);
	bed->agent[index] = (struct bed_agent){ .fd = connect_to(bed->daemon.agents_path, SOCK_SEQPACKET) };
	bed_run(bed);
}

void bed_agent_send(struct bed *bed, unsigned index, const void *packet, size_t size)
{
	if (bed->agent[index].fd >= 0 && size)
		(void)!send(bed->agent[index].fd, packet, size, MSG_NOSIGNAL | MSG_DONTWAIT);
	bed_run(bed);
}

void bed_agent_say(struct bed *bed, unsigned index, struct ob_wire_msg *msg)
{
	static uint8_t packet[OB_WIRE_MAX];
	int n = ob_wire_encode(msg, packet, sizeof(packet));

	if (n > 0)
		bed_agent_send(bed, index, packet, (size_t)n);
}

static void drop_staging(struct bed_agent *agent)
{
	if (agent->staging)
		munmap(agent->staging, OB_WIRE_STAGING_MAX * OB_SHARE_PAGE);
	agent->staging = NULL;
}

void bed_agent_close(struct bed *bed, unsigned index)
{
	ob_fd_close(&bed->agent[index].fd);
	drop_staging(&bed->agent[index]);
}

/* Reads one packet and the descriptor that may be with it. */
static ssize_t receive(int from, void *packet, size_t size, int *ret_fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec part = { packet, size };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(from, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *head = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;

	if (head && head->cmsg_type == SCM_RIGHTS)
		memcpy(ret_fd, CMSG_DATA(head), sizeof(*ret_fd));
	return n;
}

/* Where each extent was sent: to one domain, and never with a mapping to write. */
static void check_extent(const struct bed *bed, unsigned index, uint64_t id, int fd)
{
	static struct {
		uint64_t id;
		char domain[OB_NAME_MAX + 1];
		const struct ob_machine *solo;
	} seen[256];
	const struct ob_machine *machine = NULL;
	unsigned at = (unsigned)(id % OB_ARRAY_LEN(seen));

	for (const struct ob_machine *one = bed->daemon.machines; one; one = one->next)
		if (!strcmp(one->name, bed->agent[index].name))
			machine = one;
	FUZZ_CHECK(fd >= 0 && id, "an extent without its memory");
	FUZZ_CHECK(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED, "an extent can be written");
	if (!machine)
		return;
	FUZZ_CHECK(seen[at].id != id || (!strcmp(seen[at].domain, machine->domain) && (*machine->domain || seen[at].solo == machine)),
		   "an extent goes to \"%s\" of domain \"%s\"", machine->name, machine->domain);
	seen[at].id = id;
	seen[at].solo = machine;
	memcpy(seen[at].domain, machine->domain, sizeof(seen[at].domain));
}

static void take_sharing(struct bed *bed, unsigned index, const struct ob_wire_msg *msg, int fd)
{
	struct bed_agent *agent = &bed->agent[index];

	if (msg->type == OB_WIRE_SHARE) {
		drop_staging(agent);
		memcpy(agent->key, msg->share.key, sizeof(agent->key));
		if (!(msg->share.flags & OB_WIRE_SHARE_ON))
			return;
		agent->staging = mmap(NULL, OB_WIRE_STAGING_MAX * OB_SHARE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		FUZZ_CHECK(agent->staging != MAP_FAILED, "staging memory that cannot be written");
	} else if (msg->type == OB_WIRE_EXTENT) {
		check_extent(bed, index, msg->extent.id, fd);
	} else if (msg->type == OB_WIRE_FETCH) {
		for (uint32_t i = 0; i < msg->fetch.n && agent->fetch_count < OB_WIRE_STAGING_MAX; i++)
			agent->fetch[agent->fetch_count++] = msg->fetch.item[i];
	} else if (msg->type == OB_WIRE_ADOPT) {
		for (uint32_t i = 0; i < msg->adopt.n && agent->adopt_count < BED_ADOPTS; i++)
			agent->adopt[agent->adopt_count++] = agent->held = msg->adopt.item[i];
	} else if (msg->type == OB_WIRE_UNSHARE) {
		agent->unshare_sequence = msg->sequence;
	}
}

/* Takes one order. Returns whether there was one. */
static int agent_take(struct bed *bed, unsigned index)
{
	static uint8_t packet[OB_WIRE_MAX];
	static struct ob_wire_msg msg;
	struct bed_agent *agent = &bed->agent[index];
	struct ob_error err = { 0 };
	int OB_FD with = -1;
	ssize_t n = receive(agent->fd, packet, sizeof(packet), &with);

	if (n == 0 || (n < 0 && errno == ECONNRESET))
		ob_fd_close(&agent->fd);
	if (n <= 0)
		return 0;
	FUZZ_CHECK(ob_wire_decode(packet, (size_t)n, &msg, &err) == 0, "an agent is sent what it cannot read: %s", err.text);
	FUZZ_CHECK(msg.type >= OB_WIRE_SET_LIMIT, "an agent is sent a message of type %u", msg.type);
	if (msg.type == OB_WIRE_SET_LIMIT)
		agent->limit_sequence = msg.sequence;
	if (msg.type == OB_WIRE_RELEASE)
		agent->release_sequence = msg.sequence;
	take_sharing(bed, index, &msg, with);
	return 1;
}

static void check_numbers(const char *in, const json_t *value)
{
	const char *key;
	json_t *child;
	size_t i;

	FUZZ_CHECK(!json_is_number(value) || json_number_value(value) >= 0, "\"%s\" is negative", in);
	json_array_foreach(value, i, child)
		check_numbers(in, child);
	json_object_foreach((json_t *)value, key, child)
		check_numbers(key, child);
}

static void check_line(struct bed_client *client, const char *line, size_t length)
{
	json_error_t problem;
	json_t *object = json_loadb(line, length, JSON_REJECT_DUPLICATES, &problem);
	const json_t *ok;

	FUZZ_CHECK(json_is_object(object), "a client is sent \"%.*s\": %s", (int)OB_MIN(length, (size_t)200), line, problem.text);
	FUZZ_CHECK(length + 1 <= OB_API_ANSWER_MAX, "a line of %zu bytes", length);
	FUZZ_CHECK(json_integer_value(json_object_get(object, "version")) == OB_API_VERSION, "%.*s", (int)length, line);
	ok = json_object_get(object, "ok");
	FUZZ_CHECK(json_is_boolean(ok) || json_is_object(json_object_get(object, "progress")), "%.*s", (int)length, line);
	if (json_is_false(ok)) {
		const char *error = json_string_value(json_object_get(object, "error"));

		FUZZ_CHECK(error && fuzz_is_one_line(error), "%.*s", (int)length, line);
		FUZZ_CHECK(json_string_value(json_object_get(object, "code")), "%.*s", (int)length, line);
	}
	client->answers += json_is_boolean(ok);
	check_numbers("", object);
	json_decref(object);
}

/* Reads what there is. Returns whether there was anything. */
static int client_take(struct bed_client *client)
{
	char *end;
	ssize_t n;

	if (client->size - client->used < 65536) {
		client->size = 2 * client->size + 65536;
		client->text = realloc(client->text, client->size);
		FUZZ_CHECK(client->text, "no memory");
	}
	n = recv(client->fd, client->text + client->used, client->size - client->used, MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno == ECONNRESET))
		ob_fd_close(&client->fd);
	if (n <= 0)
		return 0;
	client->used += (size_t)n;
	while ((end = memchr(client->text, '\n', client->used))) {
		check_line(client, client->text, (size_t)(end - client->text));
		client->used -= (size_t)(end + 1 - client->text);
		memmove(client->text, end + 1, client->used);
	}
	FUZZ_CHECK(client->used < OB_API_ANSWER_MAX, "a line without an end");
	return 1;
}

static void check_registry(const struct ob_daemon *daemon)
{
	unsigned n = 0;

	for (const struct ob_machine *machine = daemon->machines; machine; machine = machine->next, n++) {
		FUZZ_CHECK(ob_name_valid(machine->name), "a machine is called \"%s\"", machine->name);
		FUZZ_CHECK(ob_registry_find((struct ob_daemon *)daemon, machine->name) == machine, "two machines \"%s\"", machine->name);
		FUZZ_CHECK(!machine->link == (machine->state != OB_MACHINE_RUNNING && machine->state != OB_MACHINE_STOPPED),
			   "machine \"%s\" is %s", machine->name, ob_machine_state_name(machine));
		FUZZ_CHECK(machine->shares && machine->shares <= OB_SHARES_MAX, "shares %u", machine->shares);
	}
	FUZZ_CHECK(n == daemon->machine_count && daemon->link_count <= BED_AGENTS + 1 && daemon->client_count <= BED_CLIENTS + 1,
		   "%u machines, %u links, %u clients", daemon->machine_count, daemon->link_count, daemon->client_count);
}

/* At rest every agent knows what is wanted of it, and no lie makes an average of more than there can be. */
static void check_large(const struct ob_daemon *daemon)
{
	uint32_t shareable = ob_large_shareable(&daemon->large);

	FUZZ_CHECK(shareable <= OB_LARGE_PAGES || shareable == OB_LARGE_UNKNOWN, "%u of a large page's 512 are shareable", shareable);
	for (const struct ob_machine *machine = daemon->machines; machine && daemon->large.host.is_started; machine = machine->next)
		FUZZ_CHECK(!machine->link || (machine->large.is_told &&
					      !memcmp(&machine->large.told, &machine->large.wanted, sizeof(machine->large.told))),
			   "machine \"%s\" has not been told of large pages", machine->name);
}

/* The same of balloons; and none is told anything that no policy could have told it. */
static void check_balloons(const struct ob_daemon *daemon)
{
	for (const struct ob_machine *machine = daemon->machines; machine; machine = machine->next) {
		const struct ob_balloon_machine *balloon = &machine->balloon;

		FUZZ_CHECK(!machine->link || !balloon->is_known ||
			   (balloon->is_told && balloon->told.target_bytes == balloon->policy.target_bytes && balloon->told.mode == balloon->mode),
			   "machine \"%s\" has not been told of its balloon", machine->name);
		FUZZ_CHECK(balloon->policy.target_bytes % (1 << 20) == 0 && balloon->policy.target_bytes <= 1ull << 56, "a balloon is to hold %llu",
			   (unsigned long long)balloon->policy.target_bytes);
	}
}

/* Applications are told no more in all than the host wants or has of their guest, and no guest has more than there is room for. */
static void check_guests(const struct ob_daemon *daemon)
{
	for (const struct ob_machine *machine = daemon->machines; machine; machine = machine->next) {
		const struct ob_guest *guest = &machine->guest;

		FUZZ_CHECK(guest->apps.n <= OB_GUEST_APPS_MAX && (guest->is_here || !guest->apps.n), "%u applications", guest->apps.n);
		for (unsigned i = 0; i < guest->apps.n; i++)
			FUZZ_CHECK(guest->apps.app[i].target_bytes <= OB_GUEST_BYTES_MAX && guest->apps.app[i].state < OB_APP_STATES, "a target of %llu",
				   (unsigned long long)guest->apps.app[i].target_bytes);
	}
}

/* What a machine has by right or costs, whichever is more; never more than 2^60, so that sums do not wrap. */
static uint64_t charge(const struct ob_machine *machine)
{
	uint64_t bytes = machine->release != OB_RELEASE_NO ? ob_arbiter_released_cost(machine)
							   : OB_MAX(machine->limit_bytes, machine->stats.cost_bytes);

	return OB_MIN(bytes, 1ull << 60);
}

/*
 * The arbiter's invariant: while all machines together have or cost more than the budget, none is given more than it has.
 * A machine that has just said which limit it has is known by that, and one that is released has none.
 */
static void check_budget(const struct bed *bed, const struct ob_machine *before, unsigned n)
{
	uint64_t sum = 0;
	int grown = 0;

	for (const struct ob_machine *machine = bed->daemon.machines; machine; machine = machine->next) {
		sum += charge(machine);
		for (unsigned i = 0; i < n; i++)
			grown |= !strcmp(before[i].name, machine->name) && before[i].link == machine->link && machine->link &&
				 machine->release == OB_RELEASE_NO && before[i].release == OB_RELEASE_NO &&
				 machine->limit_bytes > before[i].limit_bytes;
	}
	FUZZ_CHECK(!grown || sum <= bed->daemon.config.budget_bytes, "limits of %llu bytes are given with a budget of %llu",
		   (unsigned long long)sum, (unsigned long long)bed->daemon.config.budget_bytes);
}

void bed_run(struct bed *bed)
{
	static struct ob_machine before[BED_MACHINES];
	unsigned turns = 0, n = 0;
	int r, taken;

	for (const struct ob_machine *machine = bed->daemon.machines; machine && n < BED_MACHINES; machine = machine->next)
		before[n++] = *machine;
	do {
		taken = 0;
		while ((r = sd_event_run(bed->daemon.event, 0)) > 0)
			FUZZ_CHECK(++turns < TURNS_MAX, "the loop does not come to rest");
		FUZZ_CHECK(r == 0, "the loop has ended: %s", strerror(-r));
		for (unsigned i = 0; i < BED_AGENTS; i++)
			while (bed->agent[i].fd >= 0 && agent_take(bed, i))
				taken = 1;
	} while (taken);
	check_registry(&bed->daemon);
	check_large(&bed->daemon);
	check_balloons(&bed->daemon);
	check_guests(&bed->daemon);
	check_budget(bed, before, n);
}

void bed_client_connect(struct bed *bed, unsigned index)
{
	bed_client_close(bed, index);
	bed->client[index].fd = connect_to(bed->daemon.clients_path, SOCK_STREAM);
	bed_run(bed);
}

void bed_client_send(struct bed *bed, unsigned index, const char *text, size_t size)
{
	struct bed_client *client = &bed->client[index];

	while (size && client->fd >= 0) {
		ssize_t n = send(client->fd, text, size, MSG_NOSIGNAL | MSG_DONTWAIT);

		bed_run(bed);
		if (n < 0 && errno != EAGAIN)
			break;
		if (n <= 0) {
			/* It does not read while its answer is not taken. */
			bed_client_read(bed, index);
			n = send(client->fd, text, size, MSG_NOSIGNAL | MSG_DONTWAIT);
			if (n <= 0)
				break;
		}
		text += n;
		size -= (size_t)n;
	}
	bed_run(bed);
}

void bed_client_read(struct bed *bed, unsigned index)
{
	struct bed_client *client = &bed->client[index];

	while (client->fd >= 0 && client_take(client))
		bed_run(bed);
}

void bed_client_end(struct bed *bed, unsigned index)
{
	if (bed->client[index].fd >= 0)
		shutdown(bed->client[index].fd, SHUT_WR);
	bed_run(bed);
}

void bed_client_close(struct bed *bed, unsigned index)
{
	struct bed_client *client = &bed->client[index];

	ob_fd_close(&client->fd);
	free(client->text);
	*client = (struct bed_client){ .fd = -1 };
	bed_run(bed);
}

void bed_pass(struct bed *bed, uint64_t seconds)
{
	now_ns += OB_MIN(seconds, 3600ull) * OB_NS_PER_SEC;
	ob_arbiter_run(&bed->daemon);
	ob_large_step(&bed->daemon);
	ob_balloon_step(&bed->daemon);
	ob_share_tick(&bed->daemon);
	ob_api_tick(&bed->daemon);
	bed_run(bed);
}

void bed_set_subpages(struct bed *bed, unsigned subpages)
{
	bed->daemon.config.share_subpages = subpages;
	ob_share_reconfigure(&bed->daemon);
	bed_run(bed);
}

void bed_set_large(struct bed *bed, unsigned policy, uint64_t min_free_bytes)
{
	bed->daemon.config.large_policy = policy % OB_LARGE_POLICIES;
	bed->daemon.config.min_free_bytes = min_free_bytes;
	ob_large_step(&bed->daemon);
	bed_run(bed);
}

void bed_set_balloons(struct bed *bed, int is_auto, uint64_t floor_bytes)
{
	bed->daemon.config.balloon_auto = is_auto;
	bed->daemon.config.balloon_floor = (struct ob_balloon_floor){ .percent = floor_bytes ? 0 : 25, .bytes = floor_bytes };
	ob_balloon_step(&bed->daemon);
	bed_run(bed);
}

static void on_freed(void *context, uint32_t slot, uint64_t lo, uint64_t hi)
{
}

static void on_opened(void *context, uint64_t id, int fd)
{
}

static void on_gone(void *context, uint64_t id)
{
}

void bed_keep(struct bed *bed, unsigned index, const char *domain, unsigned pages)
{
	static const struct ob_store_events events = { on_freed, on_opened, on_gone };
	char label[OB_STORE_LABEL_MAX], name[32];
	uint8_t page[OB_SHARE_PAGE];
	struct ob_store *store;
	uint32_t slot = 0;
	int fd = -1;

	snprintf(label, sizeof(label), "domain:%.63s", domain);
	store = ob_store_new(label, &events, NULL);
	for (unsigned i = 0; i < pages; i++) {
		memset(page, (int)i, sizeof(page));
		FUZZ_CHECK(ob_store_fill(store, page, i, i, true, true, &slot) == 0, "no memory");
		bed->agent[index].held = (struct ob_wire_adopt){ .extent = ob_store_id(store, slot) };
	}
	if (pages)
		fd = fcntl(ob_store_fd(store, slot), F_DUPFD_CLOEXEC, 3);
	ob_store_free(store);
	snprintf(name, sizeof(name), "extent-%016llx", (unsigned long long)bed->agent[index].held.extent);
	if (fd >= 0)
		(void)ob_share_take(&bed->daemon, fd, name);
	bed_run(bed);
}

void bed_empty(struct bed *bed)
{
	struct ob_daemon *daemon = &bed->daemon;

	for (unsigned i = 0; i < BED_CLIENTS; i++) {
		bed_client_read(bed, i);
		bed_client_close(bed, i);
	}
	for (unsigned i = 0; i < BED_AGENTS; i++)
		bed_agent_close(bed, i);
	bed_run(bed);
	FUZZ_CHECK(!daemon->links && !daemon->clients, "%u links and %u clients stay", daemon->link_count, daemon->client_count);
	ob_registry_clear(daemon);
	bed_run(bed);
	FUZZ_CHECK(!daemon->machine_count, "%u machines stay", daemon->machine_count);
	/* Nobody is awaited any more. */
	bed_pass(bed, 60);
	FUZZ_CHECK(!daemon->share->domains && !daemon->share->planned && !ob_share_orphan_bytes(daemon), "something of sharing stays");
	daemon->config = ob_config_default;
	daemon->stirred_ns = 0;
	daemon->large = (struct ob_large){ 0 };
	now_ns = 1000 * OB_NS_PER_SEC;
}
