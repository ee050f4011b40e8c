/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `overbook balloon NAME [SIZE|auto|off]`: how a machine's balloon is driven, and how it does. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/option.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/client.h"

static const struct option long_options[] = {
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

static const char usage[] =
	"Usage: overbook balloon NAME [SIZE|auto|off] [--json]\n"
	"Shows how a machine's balloon is driven, or changes it:\n"
	"  SIZE  so much is to be left to the guest (512M, 2G), in steps, and as far as it does not suffer\n"
	"  auto  what the machine costs above its limit is asked of the guest before it is evicted\n"
	"  off   the balloon is emptied and left alone\n";

/* What stands in the way, in words; NULL: nothing. */
static const char *what_is_amiss(const json_t *balloon)
{
	const char *state = ob_client_text(balloon, "state");

	if (json_is_false(json_object_get(balloon, "device")))
		return "the machine has no virtio-balloon";
	if (!strcmp(ob_client_text(balloon, "mode"), "off"))
		return NULL;
	if (json_is_false(json_object_get(balloon, "driver")))
		return "its guest has no driver for the balloon, or is still starting";
	if (!strcmp(state, "blind"))
		return "its guest tells nothing of its memory, so that nothing is taken from it";
	if (!strcmp(state, "easing"))
		return "its guest has suffered, and got memory back; it is left alone for a while";
	if (!strcmp(state, "stuck"))
		return "its guest does not give what it is asked for; it is left alone for a while";
	return NULL;
}

static void print_application(const json_t *app)
{
	char used[16], could[16], given[16], target[16];
	uint64_t given_bytes = ob_client_number(app, "given_bytes"), target_bytes = ob_client_number(app, "target_bytes");

	printf("  %s (%s): %s, uses %s, could give %s", ob_client_text(app, "name"), ob_client_text(app, "kind"), ob_client_text(app, "state"),
	       ob_size_format(used, sizeof(used), ob_client_number(app, "used_bytes")),
	       ob_size_format(could, sizeof(could), ob_client_number(app, "could_bytes")));
	if (given_bytes || target_bytes)
		printf(", has given %s of %s", ob_size_format(given, sizeof(given), given_bytes), ob_size_format(target, sizeof(target), target_bytes));
	if (json_is_string(json_object_get(app, "error")))
		printf(": %s", ob_client_text(app, "error"));
	putchar('\n');
}

static void print_guest(const json_t *guest)
{
	const json_t *list = json_object_get(guest, "applications"), *some = json_object_get(guest, "pressure_some_permille"), *app;
	char available[16], total[16];
	size_t i;

	if (!json_is_object(guest))
		return;
	printf("  its guest runs %s: %s of %s available", ob_client_text(guest, "program"),
	       ob_size_format(available, sizeof(available), ob_client_number(guest, "available_bytes")),
	       ob_size_format(total, sizeof(total), ob_client_number(guest, "total_bytes")));
	if (json_is_integer(some))
		printf(", waits for memory %.1f%% of the time", (double)ob_client_number(guest, "pressure_some_permille") / 10);
	if (json_is_true(json_object_get(guest, "stalls")))
		printf(", so nothing more is asked of it");
	putchar('\n');
	json_array_foreach((json_t *)list, i, app)
		print_application(app);
}

static void print_balloon(const json_t *answer)
{
	const json_t *balloon = json_object_get(answer, "balloon");
	const char *amiss = what_is_amiss(balloon);
	char size[16], target[16], held[16], arrived[16], floor[16];

	printf("%s: %s", ob_client_text(answer, "name"), ob_client_text(balloon, "mode"));
	if (ob_client_number(balloon, "size_bytes"))
		printf(", %s for the guest", ob_size_format(size, sizeof(size), ob_client_number(balloon, "size_bytes")));
	printf(", %s\n  %s in the balloon, told to hold %s; %s have arrived on the host; at least %s are left to the guest\n",
	       ob_client_text(balloon, "state"), ob_size_format(held, sizeof(held), ob_client_number(balloon, "held_bytes")),
	       ob_size_format(target, sizeof(target), ob_client_number(balloon, "target_bytes")),
	       ob_size_format(arrived, sizeof(arrived), ob_client_number(balloon, "arrived_bytes")),
	       ob_size_format(floor, sizeof(floor), ob_client_number(balloon, "floor_bytes")));
	if (ob_client_number(balloon, "eased") || ob_client_number(balloon, "stuck"))
		printf("  its guest has suffered and got memory back %" PRIu64 " times, and not given what it was asked for %" PRIu64
		       " times\n", ob_client_number(balloon, "eased"), ob_client_number(balloon, "stuck"));
	if (amiss)
		printf("  %s\n", amiss);
	print_guest(json_object_get(answer, "guest"));
}

int ob_cmd_balloon(int argc, char **argv)
{
	const char *name, *wish = NULL;
	int letter, json = 0;
	uint64_t bytes = 0;
	json_t *arguments;

	optind = 0;
	while ((letter = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
		if (letter == 'h') {
			fputs(usage, stdout);
			return OB_EXIT_OK;
		}
		if (letter != 'j')
			return ob_cli_fail(OB_EXIT_USAGE, "option \"%s\" is not known: there are --json and --help",
					   ob_option_refused(argv));
		json = 1;
	}
	if (argc - optind < 1 || argc - optind > 2)
		return ob_cli_fail(OB_EXIT_USAGE,
				   "a machine is needed, and perhaps a size: overbook balloon NAME [SIZE|auto|off]");
	name = argv[optind];
	wish = argv[optind + 1];
	if (ob_cli_check_name(name))
		return OB_EXIT_USAGE;
	if (wish && strcmp(wish, "auto") && strcmp(wish, "off") &&
	    (ob_size_parse(wish, &bytes) < 0 || !bytes || bytes > INT64_MAX))
		return ob_cli_fail(OB_EXIT_USAGE, "\"%s\" is not a size, such as 512M or 2G, nor \"auto\" or \"off\"", wish);
	arguments = json_pack("{s:s}", "name", name);
	if (arguments && wish)
		json_object_set_new(arguments, "mode", json_string(bytes ? "fixed" : wish));
	if (arguments && bytes)
		json_object_set_new(arguments, "size_bytes", json_integer((json_int_t)bytes));
	return ob_client_command("balloon", arguments, json, print_balloon, NULL);
}
