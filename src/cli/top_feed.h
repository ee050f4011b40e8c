/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Asks overbookd again and again, in a thread of its own: a screen must follow its keys while overbookd is silent. What was answered
 * waits until it is taken; a newer answer takes its place. The thread lives as long as the process.
 */
#ifndef OB_CLI_TOP_FEED_H
#define OB_CLI_TOP_FEED_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"

struct ob_top_feed;

/* Either list (the answer to `ps` with "counts"), and detail (the one to `stats`, NULL without); or the failure, as of ob_client_call(). */
struct ob_top_news {
	json_t *list, *detail;
	int failure;
	struct ob_error err;
};

/* Asks at once, and every so many seconds. 0 or -errno. */
int ob_top_feed_start(struct ob_top_feed **ret_feed, double seconds, struct ob_error *err) OB_MUST_CHECK;

/* Readable when there is news. */
int ob_top_feed_fd(const struct ob_top_feed *feed);

/* The news, which the caller owns; false when there is none. */
bool ob_top_feed_take(struct ob_top_feed *feed, struct ob_top_news *ret_news);

/* Whom to ask about beside the list ("": nobody); and asks at once. */
void ob_top_feed_watch(struct ob_top_feed *feed, const char *name);

/* For how long overbookd has not answered a question; 0 while there is none. */
uint64_t ob_top_feed_silent_ns(struct ob_top_feed *feed);

/* Asks once, here and now. */
void ob_top_feed_ask(const char *name, struct ob_top_news *ret_news);
void ob_top_news_free(struct ob_top_news *news);

#endif
