/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loopback traffic: one thread sends pages over TCP to itself, another receives and checks them. The n-th page of the
 * stream is page n of an area of its own, version 1, so loss, repetition and reordering show as well as wrong bytes.
 */
#include "witness.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NET_ID          (100ull << 40)
#define NET_PAUSE_NS    5000000 /* after each burst, so that traffic is a side show */
#define NET_BURST_PAGES 16

static int sender_fd, receiver_fd;

static void net_failed(const char *what)
{
	atomic_fetch_add(&counters->io_errors, 1);
	report("error what=%s errno=%d", what, errno);
}

static void *send_main(void *context)
{
	static unsigned char page[PAGE_BYTES] __attribute__((aligned(8)));
	const struct timespec pause = { .tv_nsec = NET_PAUSE_NS };

	for (uint64_t n = 0;; n++) {
		pattern_fill(&params.mix, NET_ID + n, 1, page);
		for (size_t at = 0; at < sizeof(page);) {
			ssize_t sent = send(sender_fd, page + at, sizeof(page) - at, MSG_NOSIGNAL);

			if (sent < 0) {
				net_failed("send");
				return NULL;
			}
			at += (size_t)sent;
		}
		if (n % NET_BURST_PAGES == 0)
			nanosleep(&pause, NULL);
	}
}

static void *receive_main(void *context)
{
	static unsigned char page[PAGE_BYTES] __attribute__((aligned(8)));
	uint64_t want;

	for (uint64_t n = 0;; n++) {
		int word;

		if (recv(receiver_fd, page, sizeof(page), MSG_WAITALL) != (ssize_t)sizeof(page)) {
			net_failed("receive");
			return NULL;
		}
		word = pattern_check(&params.mix, NET_ID + n, 1, page, &want);
		if (word >= 0 && atomic_fetch_add(&counters->wrong, 1) < 20)
			report("wrong area=net page=%llu offset=%d version=1 want=%016llx got=%016llx looks=%s", (unsigned long long)n,
			       word * 8, (unsigned long long)want, (unsigned long long)((uint64_t *)page)[word],
			       pattern_guess(&params.mix, NET_ID + n, 1, page));
		atomic_fetch_add(&counters->net_bytes, PAGE_BYTES);
	}
}

int net_start(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	pthread_t thread;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	sender_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || sender_fd < 0 || bind(listener, (struct sockaddr *)&address, length) < 0 || listen(listener, 1) < 0 ||
	    getsockname(listener, (struct sockaddr *)&address, &length) < 0 ||
	    connect(sender_fd, (struct sockaddr *)&address, length) < 0)
		return -1;
	receiver_fd = accept(listener, NULL, NULL);
	close(listener);
	if (receiver_fd < 0 || pthread_create(&thread, NULL, send_main, NULL) || pthread_create(&thread, NULL, receive_main, NULL))
		return -1;
	return 0;
}
