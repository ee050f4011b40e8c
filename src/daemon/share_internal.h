/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What share.c, share_keep.c, share_match.c, share_holds.c and share_api.c know of each other. */
#ifndef OB_DAEMON_SHARE_INTERNAL_H
#define OB_DAEMON_SHARE_INTERNAL_H

#include "daemon/share.h"
#include "daemon/store.h"
#include "share/index.h"

#define OB_SHARE_TODO_MAX    8192u /* offers of one machine that have an equal and wait for their turn */
#define OB_SHARE_PENDING_MAX 1024u /* ADOPTs of one machine without an answer */
#define OB_SHARE_PAGE        4096u

/* A page that somebody has offered. */
struct ob_offered {
	uint64_t page, lo, hi;
	uint16_t class; /* of the index's */
	bool is_orphan; /* it is a slot of a former overbookd's store */
	bool is_apart;  /* the index was not told of it */
	bool is_used;   /* it goes on taking memory */
};

/* One page of a machine's staging memory. */
struct ob_staging {
	bool busy; /* a FETCH into it was sent, or is about to be */
	bool sent;
	uint64_t since_ns;
	bool wanted; /* somebody waits for it: cleared before busy is, when it takes too long */
	struct ob_offered offered;
};

struct ob_adoption {
	uint64_t page, lo, hi;
	uint32_t slot;
	uint16_t class;
};

/* Searches for the equals of offers, in the index that the domain has now. */
struct ob_search_counters {
	uint64_t comparisons, futile; /* of two hashes; those of searches that found no equal */
	uint64_t lost;                /* searches that would have found one in another class */
};

struct ob_share_counters {
	uint64_t offers, missed, fetched, stale, adopted, refused, dropped, no_room;
};

/* A machine as one that shares. Exists from its first HELLO to the end of its process. */
struct ob_sharer {
	struct ob_machine *machine;
	struct ob_domain *domain;
	unsigned number;          /* in the domain */
	struct ob_holder holder;
	struct ob_holder claim;   /* what HOLDS has named so far */
	bool claims;              /* HOLDS has begun, on this connection, and not ended */
	uint64_t quota;

	bool off;                 /* by the user's wish */
	bool on;                  /* it was told last that sharing is on, on this connection */
	uint32_t cpu_told; /* with the last switch */
	bool switch_wanted, unshare_wanted, unsharing;
	bool kept_told;           /* KEPT was sent, on this connection */
	bool maps;                /* it may have mapped what it holds, or held */
	bool may_map_wanted;      /* it is to be told that it may */
	uint32_t unshare_sequence;
	uint64_t unshare_done_bytes, unshare_total_bytes;

	int staging_fd;
	uint8_t *staging_base;    /* NULL: none */
	struct ob_staging staging[OB_WIRE_STAGING_MAX];
	unsigned staging_busy;
	bool staging_is_used;     /* some of it takes memory */

	struct ob_offered *todo;  /* a ring of OB_SHARE_TODO_MAX; it may be NULL while it is empty, and so may pending */
	unsigned todo_first, todo_count;
	struct ob_adoption *pending; /* a ring of OB_SHARE_PENDING_MAX: ADOPTs that were sent */
	unsigned pending_first, pending_count;
	unsigned fetch_out, adopt_out; /* of staging and pending: not sent yet */

	struct ob_wire_orphan *orphans, *more; /* more: the list that is being told */
	uint32_t orphan_count, more_count;
	struct ob_share_counters counters;
};

/* The ith of the ADOPTs without an answer. */
static inline struct ob_adoption *ob_sharer_pending(const struct ob_sharer *sharer, unsigned i)
{
	return &sharer->pending[(sharer->pending_first + i) % OB_SHARE_PENDING_MAX];
}

struct ob_domain {
	struct ob_domain *next;
	struct ob_share *share;
	char name[OB_NAME_MAX + 1];
	bool solo;    /* the domain of the one machine of that name, */
	uint32_t pid; /* and of this process; else 0 */
	struct ob_store *store;
	struct ob_index *index;
	unsigned subpages; /* that its classes tell of; 0: it has none */
	struct ob_search_counters searches;
	struct ob_sharer *sharers[OB_STORE_MEMBERS];
	unsigned top, count; /* numbers in use lie below top */
	uint64_t enough_ns;              /* when memory was last not so short that what nobody uses is shed */
	uint64_t shed_ns, shed_pause_ns; /* when the last extent was begun to be shed, 0: none ever; and how long to wait after that */
	uint32_t shed_used, moved;       /* its slots in use then; pages of drained extents that have got another slot since */
	unsigned turn;       /* whose list is tried first */
};

struct ob_share {
	struct ob_daemon *daemon;
	uint8_t key[OB_WIRE_KEY_SIZE];
	struct ob_domain *domains;
	unsigned planned; /* FETCHes that may fill a slot */
	uint64_t allowed_bytes, orphan_bytes, hungry_until_ns;
	bool in_advance;         /* what is allowed is */
	uint64_t await_until_ns; /* machines that have extents of before are awaited; 0: none */
	bool ends;               /* overbookd ends: what goes is to be kept */
};

/* --- share.c --- */
/* Whether the budget allows that the stores take a page more; whether the domain's has a slot for one more page, its FETCHes under way set aside. */
bool ob_share_may_grow(const struct ob_share *share);
bool ob_share_has_room(const struct ob_domain *domain);
bool ob_share_may_open(const struct ob_share *share);
/* There was none: asks the arbiter. */
void ob_share_want_room(struct ob_share *share);

/* The domain, made if it is new. NULL when memory is short. */
struct ob_domain *ob_domain_get(struct ob_share *share, bool solo, const char *name, uint32_t pid);
/* Frees it, if it has no machines and awaits none. */
void ob_domain_put(struct ob_domain *domain);

/* --- share_keep.c --- */
void ob_keep_label(const struct ob_domain *domain, char label[OB_STORE_LABEL_MAX + 1]);
void ob_keep_opened(void *context, uint64_t id, int fd);
void ob_keep_gone(void *context, uint64_t id);
/* Tells which extents are kept, unless it was told on this connection. Returns 0 or -errno. */
int ob_keep_send(struct ob_sharer *sharer) OB_MUST_CHECK;
/* HOLDS names a slot of a restored extent: holds it so often. */
int ob_keep_claim(struct ob_sharer *sharer, uint32_t slot, uint32_t count, struct ob_error *err) OB_MUST_CHECK;
/* Sends DRAIN for the extent that a slot is in. Returns 0 or -errno. */
int ob_keep_send_drain(struct ob_sharer *sharer, uint32_t slot) OB_MUST_CHECK;
void ob_keep_tick(struct ob_share *share);

/* --- share_holds.c --- */
/* DROPPED, WORN, HOLDS. */
int ob_holds_handle(struct ob_sharer *sharer, const struct ob_wire_msg *msg, struct ob_error *err) OB_MUST_CHECK;

/* --- share_match.c --- */
int ob_match_handle(struct ob_sharer *sharer, const struct ob_wire_msg *msg, struct ob_error *err) OB_MUST_CHECK;
/* Sends the extent that a slot is in, unless the machine has it. Returns 0 or -errno. */
int ob_match_send_extent(struct ob_sharer *sharer, uint32_t slot) OB_MUST_CHECK;
/* Starts what can be started in the domain, and sends it. */
void ob_match_pump(struct ob_domain *domain);
/* The machine answers nothing any more (its connection has ended): what waits for it is given up. */
void ob_match_abandon(struct ob_sharer *sharer);
/* Gives up comparisons that have waited too long. */
void ob_match_expire(struct ob_domain *domain);

#endif
