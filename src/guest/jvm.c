/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Java's virtual machine (OpenJDK's), by the interface of jcmd, which attach.c opens. Every question is a connection of its own: "1", a command, three
 * arguments, each ended by NUL. The answer is a line with a number, 0 for success, and then a text until the connection ends.
 *
 *     look      printflag, jcmd GC.heap_info: the collector, the soft maximum of its heap, what it has committed
 *     limit     jcmd VM.set_flag SoftMaxHeapSize; before a smaller one than was asked for before, jcmd GC.run
 *
 * Limit and use are of the heap: what is committed, empty or not. A soft maximum below what lives there would keep the collector running for nothing,
 * so that it is never set below that and a quarter; who asked for less gets what there is, and who then asks for no more than that has it already.
 *
 * ZGC and Shenandoah let go of what is above the soft maximum, Shenandoah at once, ZGC after ZUncommitDelay, which cannot be changed while it runs:
 * one with a longer delay than DELAY_MOST is not asked, since nobody would wait for it, nor are other collectors.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "guest/jvm.h"

#define DELAY_MOST 5 /* seconds */

static struct {
	uint64_t asked_bytes, told_bytes; /* the limit that was asked for last, and what the JVM was told */
	bool is_fit;                      /* its collector lets memory go */
} jvm;

struct heap {
	uint64_t used_bytes, committed_bytes;
};

/* The answer's text is in *ret_text. */
static int ask(struct ob_server *server, const char *command, const char *argument, const char **ret_text, struct ob_error *err)
{
	char request[128], *text = (char *)server->in, *end;
	int n = snprintf(request, sizeof(request), "1%c%s%c%s%c%c%c", 0, command, 0, argument, 0, 0, 0), r;
	long result;

	server->used = 0;
	r = ob_jvm_open(server, err);
	if (r == 0)
		r = ob_server_send(server, request, (size_t)n, err);
	if (r < 0)
		return r;
	while (r == 0)
		r = ob_server_more(server, err);
	if (r != -ECONNRESET)
		return r;
	*err = (struct ob_error){ 0 };
	if (server->used == sizeof(server->in) || memchr(text, '\0', server->used))
		return ob_error_set(err, EPROTO, "the JVM's answer to %s is no text", command);
	text[server->used] = '\0';
	result = strtol(text, &end, 10);
	if (end == text || *end != '\n')
		return ob_error_set(err, EPROTO, "the JVM's answer to %s has no result", command);
	if (result)
		return ob_error_set(err, EPERM, "the JVM refuses %s %s: %.200s", command, argument, end + 1);
	*ret_text = end + 1;
	return 0;
}

/* Whether it has the option, and it is on. 1, 0 or -errno. */
static int is_on(struct ob_server *server, const char *option, struct ob_error *err)
{
	char expected[64];
	const char *text;
	int r = ask(server, "printflag", option, &text, err);

	/* A JVM that was built without that knows no such option. */
	if (r == -EPERM && server->used) {
		*err = (struct ob_error){ 0 };
		return 0;
	}
	snprintf(expected, sizeof(expected), "-XX:+%s\n", option);
	return r < 0 ? r : !strcmp(text, expected);
}

static int read_number(struct ob_server *server, const char *option, uint64_t *ret_value, struct ob_error *err)
{
	char expected[64], number[24];
	size_t length = (size_t)snprintf(expected, sizeof(expected), "-XX:%s=", option), digits;
	const char *text;
	int r = ask(server, "printflag", option, &text, err);

	if (r < 0)
		return r;
	digits = strncmp(text, expected, length) ? 0 : strspn(text + length, "0123456789");
	snprintf(number, sizeof(number), "%.*s", (int)OB_MIN(digits, sizeof(number) - 1), digits ? text + length : "");
	return ob_server_parse_bytes(number, ret_value) < 0 ? ob_error_set(err, EPROTO, "the JVM's %s is \"%.40s\"", option, text) : 0;
}

/* A size such as 84M, from at on: 0 or -EPROTO. */
static int parse_size(const char *at, uint64_t *ret_bytes)
{
	char size[24];
	uint64_t bytes;

	snprintf(size, sizeof(size), "%.*s", (int)OB_MIN(strspn(at, "0123456789BKMG"), sizeof(size) - 1), at);
	if (ob_size_parse(size, &bytes) < 0 || bytes > OB_GUEST_BYTES_MAX)
		return -EPROTO;
	*ret_bytes = bytes;
	return 0;
}

/* The size in front of the word: " 84M committed". */
static int parse_before(const char *text, const char *word, uint64_t *ret_bytes)
{
	const char *at = strstr(text, word);

	while (at && at > text && at[-1] != ' ')
		at--;
	return at ? parse_size(at, ret_bytes) : -EPROTO;
}

/*
 * " ZHeap           used 84M, capacity 544M, max capacity 768M", or, in Shenandoah's second line,
 * " 768M max, 768M soft max, 601M committed, 480M used".
 */
static int read_heap(struct ob_server *server, struct heap *ret_heap, struct ob_error *err)
{
	struct heap heap = { 0 };
	const char *text, *used, *capacity;
	int r = ask(server, "jcmd", "GC.heap_info", &text, err);

	if (r < 0)
		return r;
	used = strstr(text, "used ");
	capacity = strstr(text, "capacity ");
	if (!strncmp(text, "Shenandoah", strlen("Shenandoah")))
		r = OB_MIN(parse_before(text, " committed", &heap.committed_bytes), parse_before(text, " used", &heap.used_bytes));
	else if (used && capacity)
		r = OB_MIN(parse_size(used + strlen("used "), &heap.used_bytes), parse_size(capacity + strlen("capacity "), &heap.committed_bytes));
	else
		r = -EPROTO;
	if (r < 0)
		return ob_error_set(err, EPROTO, "the JVM's heap is \"%.100s\"", text);
	*ret_heap = heap;
	return 0;
}

/* Whether its collector lets memory go, in time: 0, -EOPNOTSUPP or -errno. */
static int check_collector(struct ob_server *server, struct ob_error *err)
{
	uint64_t delay = 0;
	int r = is_on(server, "UseShenandoahGC", err);

	if (r)
		return OB_MIN(r, 0);
	r = is_on(server, "UseZGC", err);
	if (r <= 0)
		return r < 0 ? r : ob_error_set(err, EOPNOTSUPP, "the JVM's collector is neither ZGC nor Shenandoah, and has no soft maximum that it keeps to");
	r = is_on(server, "ZUncommit", err);
	if (r == 0)
		return ob_error_set(err, EOPNOTSUPP, "the JVM lets go of no memory: it has -XX:-ZUncommit, or an initial heap of the maximum's size");
	if (r > 0)
		r = read_number(server, "ZUncommitDelay", &delay, err);
	if (r == 0 && delay > DELAY_MOST)
		return ob_error_set(err, EOPNOTSUPP, "the JVM lets go of memory after %llu s: start it with -XX:ZUncommitDelay=%d or less",
				    (unsigned long long)delay, DELAY_MOST);
	return r;
}

static int greet(struct ob_server *server, struct ob_error *err)
{
	server->grain_bytes = 32 * OB_MIB; /* Shenandoah's largest regions */
	memset(&jvm, 0, sizeof(jvm));
	/* Another one may have got its number before it was held. */
	if (ob_jvm_find(server->service) != server->pid)
		return ob_error_set(err, ECONNRESET, "the JVM has ended");
	return server->pidfd < 0 ? ob_error_set(err, EPERM, "cannot hold on to pid %d: Linux 5.3 or newer can", (int)server->pid) : 0;
}

static int look(struct ob_server *server, struct ob_server_sizes *ret_sizes, struct ob_error *err)
{
	struct ob_server_sizes sizes = { .can_shrink = true };
	struct heap heap;
	int r = jvm.is_fit ? 0 : check_collector(server, err);

	jvm.is_fit = r == 0;
	if (r == 0)
		r = read_number(server, "SoftMaxHeapSize", &sizes.limit_bytes, err);
	if (r == 0)
		r = read_number(server, "MinHeapSize", &sizes.least_bytes, err);
	if (r == 0)
		r = read_heap(server, &heap, err);
	if (r < 0)
		return r;
	server->limit_bytes = sizes.limit_bytes;
	if (sizes.limit_bytes == jvm.told_bytes && jvm.told_bytes)
		sizes.limit_bytes = jvm.asked_bytes;
	sizes.used_bytes = heap.committed_bytes;
	*ret_sizes = sizes;
	return 0;
}

static int set_limit(struct ob_server *server, uint64_t bytes, struct ob_error *err)
{
	uint64_t told_bytes = bytes;
	char command[64];
	const char *text;
	struct heap heap;
	int r = 0;

	/* No less than before, and it has that: a collection for each of many small steps back would be work for nothing. */
	if (jvm.told_bytes && server->limit_bytes == jvm.told_bytes && bytes >= jvm.asked_bytes && bytes <= jvm.told_bytes) {
		jvm.asked_bytes = bytes;
		return 0;
	}
	if (bytes < server->limit_bytes) {
		r = ask(server, "jcmd", "GC.run", &text, err);
		if (r == 0)
			r = read_heap(server, &heap, err);
		if (r < 0)
			return r;
		told_bytes = OB_MAX(bytes, heap.used_bytes + heap.used_bytes / 4);
		told_bytes = OB_MIN(told_bytes, server->limit_bytes);
	}
	snprintf(command, sizeof(command), "VM.set_flag SoftMaxHeapSize %llu", (unsigned long long)told_bytes);
	r = ask(server, "jcmd", command, &text, err);
	if (r < 0)
		return r;
	jvm.asked_bytes = bytes;
	jvm.told_bytes = told_bytes;
	return 0;
}

const struct ob_adaptor ob_jvm = {
	.name = "jvm", .kind = OB_GUEST_KIND_JVM, .floor_bytes = 64 * OB_MIB, .pain = 40, .find = ob_jvm_find,
	.greet = greet, .look = look, .set_limit = set_limit,
};
