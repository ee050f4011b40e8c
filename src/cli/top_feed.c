/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/top_feed.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "cli/client.h"
#include "proto/wire.h"

struct ob_top_feed {
	pthread_mutex_t lock; /* of all below but fd and interval_ns */
	pthread_cond_t asked;
	int fd;
	uint64_t interval_ns;
	char name[OB_NAME_MAX + 1];
	bool is_asked, has_news;
	uint64_t asking_ns; /* since when; 0: not at present */
	struct ob_top_news news;
};

void ob_top_news_free(struct ob_top_news *news)
{
	json_decref(news->list);
	json_decref(news->detail);
	news->list = news->detail = NULL;
}

void ob_top_feed_ask(const char *name, struct ob_top_news *ret_news)
{
	struct ob_error err = { 0 };

	*ret_news = (struct ob_top_news){ 0 };
	ret_news->failure = ob_client_call("ps", json_pack("{s:b}", "counts", 1), NULL, NULL, &ret_news->list, &ret_news->err);
	/* A machine that has gone meanwhile is missing in the next list. */
	if (ret_news->failure == 0 && *name &&
	    ob_client_call("stats", json_pack("{s:s}", "name", name), NULL, NULL, &ret_news->detail, &err) < 0)
		ret_news->detail = NULL;
}

static void wait_until(struct ob_top_feed *feed, uint64_t ns)
{
	struct timespec until = { .tv_sec = (time_t)(ns / OB_NS_PER_SEC), .tv_nsec = (long)(ns % OB_NS_PER_SEC) };

	while (!feed->is_asked && ob_now_ns() < ns)
		pthread_cond_timedwait(&feed->asked, &feed->lock, &until);
	feed->is_asked = false;
}

static void *run(void *context)
{
	struct ob_top_feed *feed = context;

	pthread_mutex_lock(&feed->lock);
	for (;;) {
		char name[sizeof(feed->name)];
		struct ob_top_news news;
		uint64_t began_ns = ob_now_ns();

		feed->asking_ns = began_ns;
		snprintf(name, sizeof(name), "%s", feed->name);
		pthread_mutex_unlock(&feed->lock);
		ob_top_feed_ask(name, &news);
		pthread_mutex_lock(&feed->lock);
		feed->asking_ns = 0;
		ob_top_news_free(&feed->news);
		feed->news = news;
		feed->has_news = true;
		/* Its counter cannot be full: taking news resets it. */
		(void)eventfd_write(feed->fd, 1);
		wait_until(feed, began_ns + feed->interval_ns);
	}
	return NULL;
}

/* The thread takes no signals: they are for who draws. */
static int start_thread(struct ob_top_feed *feed)
{
	sigset_t all, before;
	pthread_t thread;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&thread, NULL, run, feed);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r == 0)
		pthread_detach(thread);
	return -r;
}

int ob_top_feed_start(struct ob_top_feed **ret_feed, double seconds, struct ob_error *err)
{
	struct ob_top_feed *feed = calloc(1, sizeof(*feed));
	pthread_condattr_t attributes;
	int r;

	if (!feed)
		return ob_error_sys(err, ENOMEM, "cannot ask overbookd");
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&feed->asked, &attributes);
	pthread_mutex_init(&feed->lock, NULL);
	feed->interval_ns = (uint64_t)(seconds * (double)OB_NS_PER_SEC);
	feed->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = feed->fd < 0 ? -errno : start_thread(feed);
	if (r < 0) {
		ob_fd_close(&feed->fd);
		free(feed);
		return ob_error_sys(err, -r, "cannot start a thread that asks overbookd");
	}
	*ret_feed = feed;
	return 0;
}

int ob_top_feed_fd(const struct ob_top_feed *feed)
{
	return feed->fd;
}

bool ob_top_feed_take(struct ob_top_feed *feed, struct ob_top_news *ret_news)
{
	eventfd_t count;
	bool has_news;

	pthread_mutex_lock(&feed->lock);
	has_news = feed->has_news;
	*ret_news = feed->news;
	feed->news = (struct ob_top_news){ 0 };
	feed->has_news = false;
	(void)eventfd_read(feed->fd, &count);
	pthread_mutex_unlock(&feed->lock);
	return has_news;
}

void ob_top_feed_watch(struct ob_top_feed *feed, const char *name)
{
	pthread_mutex_lock(&feed->lock);
	snprintf(feed->name, sizeof(feed->name), "%s", name);
	feed->is_asked = true;
	pthread_cond_signal(&feed->asked);
	pthread_mutex_unlock(&feed->lock);
}

uint64_t ob_top_feed_silent_ns(struct ob_top_feed *feed)
{
	uint64_t asking_ns;

	pthread_mutex_lock(&feed->lock);
	asking_ns = feed->asking_ns;
	pthread_mutex_unlock(&feed->lock);
	return asking_ns ? ob_now_ns() - asking_ns : 0;
}
