/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The demo's parts: cmd_demo.c runs the phases, demo_guest.c the processes and the witness's lines, demo_measure.c
 * what overbookd and the kernel say about them, demo_screen.c all that a person or a program reads.
 */
#ifndef OB_CLI_DEMO_H
#define OB_CLI_DEMO_H

#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/error.h"
#include "proto/stats.h"
#include "proto/wire.h"

#define DEMO_MACHINES_MAX 32
#define DEMO_FAILURES_MAX 16
#define DEMO_TOLERANCE    0.02 /* of the budget */

/* What one machine does; sizes are percent of what its guest has left after booting, rates pages a second. */
struct demo_role {
	const char *name;
	const char *what;
	unsigned anon, tmpfs, fork, cache, direct, rate, writes, drift, net;
};

enum demo_state { DEMO_BOOTING, DEMO_FILLING, DEMO_READY, DEMO_CHECKING, DEMO_CHECKED, DEMO_STOPPING, DEMO_ENDED };

/* The witness's own totals, and what overbookd told last. */
struct demo_machine {
	char name[OB_NAME_MAX + 1];
	const struct demo_role *role;
	enum demo_state state;
	pid_t pid;            /* 0 once it has been waited for */
	int input_fd, output_fd;
	char line[1024];
	size_t line_length;
	char *disk, *log; /* paths; disk is NULL when it has none */
	uint64_t heard_ns;    /* when it last said something */
	uint64_t touched_bytes, pages_checked, pages_written, pages_wrong, io_errors, slowest_us, full_check_pages;
	int stopped_by_agent; /* overbookd reports it as stopped by an unreadable page */
	int known;            /* overbookd has figures about it */
	struct ob_stats stats;
	struct ob_hists hists;
	uint64_t faults_before, faults_before_ns, faults_per_second;
};

struct demo_options {
	unsigned machines, seconds;
	uint64_t memory_bytes, budget_bytes;
	const char *json, *guest, *directory, *accel, *qemu;
};

/* What the sampler has seen; a copy is handed out. */
struct demo_cost {
	uint64_t now_bytes, peak_bytes, samples, walks, longest_gap_ns, cpu_ns, machine_bytes[DEMO_MACHINES_MAX];
	double seconds;
};

struct demo {
	struct demo_options options;
	struct demo_machine machine[DEMO_MACHINES_MAX];
	unsigned machines;      /* started so far */
	pid_t daemon_pid;
	int signal_fd;
	int terminal;           /* stdout is one */
	int interrupted;        /* the signal's number */
	char directory[96], daemon_log[192], kernel[PATH_MAX], initrd[PATH_MAX], self[PATH_MAX], daemon[PATH_MAX];
	const char *phase;
	uint64_t began_ns, phase_ns, screen_ns, figures_ns;
	double boot_seconds, fill_seconds, run_seconds, check_seconds;
	unsigned failures;
	char failure[DEMO_FAILURES_MAX][512];
	/* As it was at the end of the run, before the full check brings pages back; summed says whether it has come so far. */
	struct ob_stats at_end;
	int summed;
	uint64_t fault_us_p50, fault_us_p99, faults;
	uint64_t share_store_bytes, share_saved_bytes; /* by overbookd; at the end of the run, as at_end */
	struct demo_cost cost;
};

extern const struct demo_role demo_roles[];
extern const unsigned demo_role_count;

/* One line about what went wrong; the demo ends with a failure. Later ones than DEMO_FAILURES_MAX are dropped. */
void demo_failed(struct demo *demo, const char *fmt, ...) OB_PRINTF(2, 3);

/* demo_guest.c */
int demo_find_guest(struct demo *demo, struct ob_error *err) OB_MUST_CHECK;
int demo_make_directory(struct demo *demo, struct ob_error *err) OB_MUST_CHECK;
void demo_remove_directory(struct demo *demo);
int demo_start_daemon(struct demo *demo, struct ob_error *err) OB_MUST_CHECK;
int demo_start_machine(struct demo *demo, unsigned index, struct ob_error *err) OB_MUST_CHECK;
void demo_tell_machine(struct demo_machine *machine, const char *line);
void demo_read_machine(struct demo *demo, struct demo_machine *machine);
/* Collects children that have ended; one that was not told to is a failure. */
void demo_reap(struct demo *demo);
/* Ends every child that is left, and waits for it. */
void demo_end_children(struct demo *demo);

/* demo_measure.c */
int demo_sampler_start(struct demo *demo, struct ob_error *err) OB_MUST_CHECK;
void demo_sampler_read(struct demo_cost *ret_cost);
void demo_sampler_stop(void);
/* Asks overbookd about every machine and tells the sampler where their memory lies. */
void demo_fetch_figures(struct demo *demo);
/* Sums the machines' figures, and the quantiles of all their faults together. */
void demo_sum_figures(struct demo *demo);

/* demo_screen.c */
void demo_show_start(const struct demo *demo);
void demo_show_phase(struct demo *demo, const char *phase, const char *what);
void demo_show(struct demo *demo);
void demo_show_summary(const struct demo *demo);
int demo_write_json(const struct demo *demo, struct ob_error *err) OB_MUST_CHECK;

#endif
