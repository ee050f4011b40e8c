/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/run_options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/option.h"
#include "base/units.h"
#include "proto/env.h"
#include "proto/wire.h"

static const struct option long_options[] = {
	{ "name", required_argument, NULL, 'n' },  { "limit", required_argument, NULL, 'l' },
	{ "reservation", required_argument, NULL, 'r' }, { "shares", required_argument, NULL, 's' },
	{ "domain", required_argument, NULL, 'd' }, { "swap", required_argument, NULL, 'w' },
	{ "no-swap", no_argument, NULL, 'W' },      { "require", no_argument, NULL, 'R' },
	{ "share-mapped", no_argument, NULL, 'm' }, { "keep-affinity", no_argument, NULL, 'a' },
	{ "balloon", required_argument, NULL, 'b' },
	{ "force", no_argument, NULL, 'f' },
	{ "dry-run", no_argument, NULL, 'D' },      { "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },         { 0 },
};

void ob_run_options_print_help(void)
{
	printf("Usage: overbook run [OPTIONS] [--] qemu-system-x86_64 ARGS...\n"
	       "Starts QEMU with its guest's memory in Overbook's care, and becomes it.\n\n"
	       "  --name NAME         what the machine is called (default: QEMU's -name, or qemu-PID)\n"
	       "  --limit SIZE        what the machine may cost the host at most (512M, 1.5G)\n"
	       "  --reservation SIZE  what it is sure to have when memory is short\n"
	       "  --shares N          its weight when memory is short (1 to %d, default %d)\n"
	       "  --domain NAME       the sharing domain (default: it shares with itself alone)\n"
	       "  --swap DIR          where evicted pages are written (default: see overbook-run(1))\n"
	       "  --no-swap           keep evicted pages in compressed memory alone\n"
	       "  --share-mapped      map shared pages that are read (try it first)\n"
	       "  --keep-affinity     never keep a thread of QEMU's on one processor while its faults are many\n"
	       "  --balloon auto|off  whether its balloon takes what it costs above its limit (default: overbookd's setting)\n"
	       "  --force             be admitted even if what is reserved for all does not fit into the budget\n"
	       "  --require           do not run at all when the host cannot do it\n"
	       "  --dry-run           print the command line that would be run, and touch nothing\n"
	       "  --json              with --dry-run: print an object\n"
	       "  --help              print this\n",
	       OB_SHARES_MAX, OB_SHARES_DEFAULT);
}

static int parse_size(const char *option, const char *text, uint64_t least, uint64_t *ret_bytes, struct ob_error *err)
{
	char buf[16];

	if (ob_size_parse(text, ret_bytes) < 0)
		return ob_error_set(err, EINVAL, "%s: \"%s\" is not a size: write it as 512M or 1.5G", option, text);
	if (*ret_bytes < least)
		return ob_error_set(err, EINVAL, "%s: %s is too little: at least %s is needed (a number without a unit "
				    "counts bytes)", option, text,
				    ob_size_format(buf, sizeof(buf), least));
	return 0;
}

static int parse_name(const char *option, const char *text, const char **ret_name, struct ob_error *err)
{
	if (!ob_name_valid(text))
		return ob_error_set(err, EINVAL, "%s: \"%s\" is not a name: up to %d letters, digits and . _ -, the first "
				    "a letter, a digit or _",
				    option, text, OB_NAME_MAX);
	*ret_name = text;
	return 0;
}

static int parse_shares(const char *option, const char *text, uint32_t *ret_shares, struct ob_error *err)
{
	char *end;
	unsigned long shares;

	errno = 0;
	shares = strtoul(text, &end, 10);
	if (!*text || text[strspn(text, "0123456789")] || errno || !shares || shares > OB_SHARES_MAX)
		return ob_error_set(err, EINVAL, "%s: \"%s\" must be a number from 1 to %d", option, text, OB_SHARES_MAX);
	*ret_shares = (uint32_t)shares;
	return 0;
}

static int parse_balloon(const char *option, const char *text, const char **ret_balloon, struct ob_error *err)
{
	if (strcmp(text, "auto") && strcmp(text, "off"))
		return ob_error_set(err, EINVAL, "%s: \"%s\" is neither \"auto\" nor \"off\"", option, text);
	*ret_balloon = text;
	return 0;
}

int ob_run_options_set(struct ob_run_options *options, const char *option, const char *value, struct ob_error *err)
{
	const char *key = option + strspn(option, "-");

	if (!strcmp(key, "name"))
		return parse_name(option, value, &options->name, err);
	if (!strcmp(key, "domain"))
		return parse_name(option, value, &options->domain, err);
	if (!strcmp(key, "limit"))
		return parse_size(option, value, OB_LIMIT_MIN, &options->limit_bytes, err);
	if (!strcmp(key, "reservation"))
		return parse_size(option, value, 1, &options->reservation_bytes, err);
	if (!strcmp(key, "balloon"))
		return parse_balloon(option, value, &options->balloon, err);
	if (!strcmp(key, "shares"))
		return parse_shares(option, value, &options->shares, err);
	if (strcmp(key, "swap"))
		return -ENOENT;
	options->swap = value;
	return 0;
}

static int parse_one(int letter, struct ob_run_options *options, struct ob_error *err)
{
	switch (letter) {
	case 'n':
		return ob_run_options_set(options, "--name", optarg, err);
	case 'd':
		return ob_run_options_set(options, "--domain", optarg, err);
	case 'l':
		return ob_run_options_set(options, "--limit", optarg, err);
	case 'r':
		return ob_run_options_set(options, "--reservation", optarg, err);
	case 's':
		return ob_run_options_set(options, "--shares", optarg, err);
	case 'b':
		return ob_run_options_set(options, "--balloon", optarg, err);
	case 'w':
		return ob_run_options_set(options, "--swap", optarg, err);
	case 'W':
		options->no_swap = 1;
		return 0;
	case 'R':
		options->require = 1;
		return 0;
	case 'm':
		options->share_mapped = 1;
		return 0;
	case 'a':
		options->keep_affinity = 1;
		return 0;
	case 'f':
		options->force = 1;
		return 0;
	case 'D':
		options->dry_run = 1;
		return 0;
	case 'j':
		options->json = 1;
		return 0;
	default:
		options->help = 1;
		return 0;
	}
}

static int check_together(const struct ob_run_options *options, int argc, struct ob_error *err)
{
	char limit[16], reservation[16];

	if (options->swap && options->no_swap)
		return ob_error_set(err, EINVAL, "--swap and --no-swap exclude each other: give one of them");
	if (options->json && !options->dry_run)
		return ob_error_set(err, EINVAL, "--json goes with --dry-run: without it the output is QEMU's own");
	if (options->limit_bytes && options->reservation_bytes > options->limit_bytes)
		return ob_error_set(err, EINVAL, "--reservation (%s) is more than --limit (%s): it can be as much at most",
				    ob_size_format(reservation, sizeof(reservation), options->reservation_bytes),
				    ob_size_format(limit, sizeof(limit), options->limit_bytes));
	if (options->first >= argc)
		return ob_error_set(err, EINVAL, "there is no QEMU to run: end with its command line, as in \"overbook run "
				    "--limit 512M -- "
				    "qemu-system-x86_64 -m 2G ...\"");
	return 0;
}

int ob_run_options_parse(int argc, char **argv, struct ob_run_options *ret_options, struct ob_error *err)
{
	int letter, r;

	memset(ret_options, 0, sizeof(*ret_options));
	ret_options->shares = OB_SHARES_DEFAULT;
	optind = 0;
	/* '+': the first word that is no option is QEMU; ':': the message about a missing argument is ours. */
	while ((letter = getopt_long(argc, argv, "+:", long_options, NULL)) != -1) {
		if (letter == ':')
			return ob_error_set(err, EINVAL, "option \"%s\" needs an argument: see \"overbook run --help\"",
					    ob_option_refused(argv));
		if (letter == '?')
			return ob_error_set(err, EINVAL, "option \"%s\" is not known, or has an argument that it does not "
					    "take: see \"overbook run "
					    "--help\"", ob_option_refused(argv));
		r = parse_one(letter, ret_options, err);
		if (r < 0)
			return r;
	}
	ret_options->first = optind;
	return ret_options->help ? 0 : check_together(ret_options, argc, err);
}

int ob_run_options_check(const struct ob_run_options *options, uint64_t ram_bytes, struct ob_error *err)
{
	char given[16], ram[16];

	ob_size_format(ram, sizeof(ram), ram_bytes);
	if (options->limit_bytes > ram_bytes)
		return ob_error_set(err, EINVAL, "--limit (%s) is more than the machine's memory (%s): give less, or leave "
				    "it out",
				    ob_size_format(given, sizeof(given), options->limit_bytes), ram);
	if (options->reservation_bytes > ram_bytes)
		return ob_error_set(err, EINVAL, "--reservation (%s) is more than the machine's memory (%s): it can be as "
				    "much at most",
				    ob_size_format(given, sizeof(given), options->reservation_bytes), ram);
	return 0;
}
