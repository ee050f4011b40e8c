/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * liboverbook-app: for programs in a guest of Overbook's that would rather be asked for memory than lose it.
 * liboverbook-app(3) is the manual.
 *
 * All calls are made by one thread at a time. None of them blocks, none starts a thread or touches a signal.
 */
#ifndef OVERBOOK_APP_H
#define OVERBOOK_APP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct overbook_app;

struct overbook_app_options {
	size_t size;        /* sizeof(struct overbook_app_options) */
	const char *name;   /* letters, digits and ._- not starting with . or -; 31 at most */
	unsigned pain;      /* 0 to 100: how much it suffers a byte that it gives; who suffers least is asked first */
	const char *socket; /* of overbook-guest; NULL: its usual one */
	/*
	 * So many bytes are to have been given in all, compared with a time when nothing had been asked. More than has been given:
	 * within deadline_ms, after which the guest's balloon takes the rest from whomever it can. Less: the difference may be taken
	 * back, the memory is there. Called by overbook_app_dispatch() alone.
	 */
	void (*target)(void *context, uint64_t give_bytes, uint32_t deadline_ms);
	void *context;
};

/*
 * Makes one; it connects when it can, now and whenever the connection has been lost. Returns NULL with errno: EINVAL (options), ENOMEM, EMFILE
 * ...; that there is no overbook-guest is no error.
 */
struct overbook_app *overbook_app_new(const struct overbook_app_options *options);
void overbook_app_free(struct overbook_app *app);

/* A descriptor, always the same, that is readable when overbook_app_dispatch() has something to do. */
int overbook_app_fd(const struct overbook_app *app);
void overbook_app_dispatch(struct overbook_app *app);

/* What it uses now, and what it could give in all, what it has given included. Whenever that has changed. */
void overbook_app_could(struct overbook_app *app, uint64_t used_bytes, uint64_t could_bytes);

/* What it has really given by now, in all. is_final: it will come no nearer to its target. */
void overbook_app_gave(struct overbook_app *app, uint64_t given_bytes, int is_final);

/* What it was asked last to have given in all; whether overbook-guest is there. */
uint64_t overbook_app_target(const struct overbook_app *app);
int overbook_app_is_connected(const struct overbook_app *app);

#ifdef __cplusplus
}
#endif

#endif
