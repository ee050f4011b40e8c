/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file is of the kind that lies in /etc/default: lines NAME=VALUE, a value perhaps in quotes; comments begin with #, at the
 * beginning of a line or behind white space.
 * A line that is not understood makes the whole file invalid. At the start that is an error; at SIGHUP overbookd goes on
 * with what it had, since to run by half of a file could mean to run without a budget.
 *
 * A setting has one name: SHARE_CPU in the file is --share-cpu on the command line.
 */
#include "daemon/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/text.h"
#include "base/units.h"
#include "daemon/budget.h"
#include "daemon/share.h"

#define VALUE_MAX 128 /* bytes of a value as it is written out */

const struct ob_config ob_config_default = {
	.budget_bytes = OB_BUDGET_NONE, .sharing = true, .share_cpu_permille = OB_SHARE_CPU_DEFAULT,
	.balloon_floor.percent = OB_BALLOON_FLOOR_PERCENT, .idle_tax_percent = OB_BUDGET_TAX_DEFAULT,
};

/* As a size is written, exactly. */
static void put_size(char *text, uint64_t bytes)
{
	static const char units[] = "KMGT";
	unsigned unit = 0;

	while (unit < strlen(units) && bytes && bytes % 1024 == 0) {
		bytes /= 1024;
		unit++;
	}
	snprintf(text, VALUE_MAX, "%llu%.1s", (unsigned long long)bytes, unit ? &units[unit - 1] : "");
}

static const char *on_off(bool is_on)
{
	return is_on ? "on" : "off";
}

static int set_budget(struct ob_config *config, const char *what, const char *text, struct ob_error *err)
{
	uint64_t bytes;

	if (!strcmp(text, "none")) {
		config->budget_bytes = OB_BUDGET_NONE;
		return 0;
	}
	if (ob_size_parse(text, &bytes) < 0 || bytes < OB_LIMIT_MIN || bytes > INT64_MAX)
		return ob_error_set(err, EINVAL, "%s \"%s\" is not a size of at least 8M, such as 512M or 16G, nor \"none\"", what,
				    text);
	config->budget_bytes = bytes;
	return 0;
}

static void tell_budget(const struct ob_config *config, char *text)
{
	if (config->budget_bytes == OB_BUDGET_NONE)
		snprintf(text, VALUE_MAX, "none");
	else
		put_size(text, config->budget_bytes);
}

static int set_share(struct ob_config *config, const char *what, const char *text, struct ob_error *err)
{
	if (strcmp(text, "on") && strcmp(text, "off"))
		return ob_error_set(err, EINVAL, "%s \"%s\" is neither \"on\" nor \"off\"", what, text);
	config->sharing = !strcmp(text, "on");
	return 0;
}

static void tell_share(const struct ob_config *config, char *text)
{
	snprintf(text, VALUE_MAX, "%s", on_off(config->sharing));
}

static int set_share_cpu(struct ob_config *config, const char *what, const char *text, struct ob_error *err)
{
	unsigned long permille = 0;
	char *end;

	if (isdigit((unsigned char)*text) && strlen(text) <= 4) {
		permille = strtoul(text, &end, 10);
		permille = *end ? 0 : permille;
	}
	if (!permille || permille > OB_SHARE_CPU_MAX)
		return ob_error_set(err, EINVAL, "%s \"%s\" is not a number from 1 to %d: permille of a processor", what, text,
				    OB_SHARE_CPU_MAX);
	config->share_cpu_permille = (unsigned)permille;
	return 0;
}

static void tell_share_cpu(const struct ob_config *config, char *text)
{
	snprintf(text, VALUE_MAX, "%u", config->share_cpu_permille);
}

static int set_share_index(struct ob_config *config, const char *what, const char *text, struct ob_error *err)
{
	static const struct {
		const char *name;
		unsigned subpages;
	} known[] = {
		{ "hash", 0 }, { "cmd-subpage", 4 }, { "cmd-subpage,subpages=1", 1 }, { "cmd-subpage,subpages=2", 2 },
		{ "cmd-subpage,subpages=4", 4 }, { "cmd-subpage,subpages=8", 8 },
	};

	for (size_t i = 0; i < OB_ARRAY_LEN(known); i++)
		if (!strcmp(text, known[i].name)) {
			config->share_subpages = known[i].subpages;
			return 0;
		}
	return ob_error_set(err, EINVAL, "%s \"%s\" is neither \"hash\" nor \"cmd-subpage\", which may have \",subpages=\" and 1, 2, 4 or 8 "
			    "behind it", what, text);
}

static void tell_share_index(const struct ob_config *config, char *text)
{
	if (config->share_subpages)
		snprintf(text, VALUE_MAX, "cmd-subpage,subpages=%u", config->share_subpages);
	else
		snprintf(text, VALUE_MAX, "hash");
}

static int set_large_pages(struct ob_config *config, const char *what, const char *text, struct ob_error *err)
{
	int policy = ob_large_policy_parse(text);

	if (policy < 0)
		return ob_error_set(err, EINVAL, "%s \"%s\" is none of \"proactive\", \"late\", \"never\" and \"off\"", what, text);
	config->large_policy = (enum ob_large_policy)policy;
	return 0;
}

static void tell_large_pages(const struct ob_config *config, char *text)
{
	snprintf(text, VALUE_MAX, "%s", ob_large_policy_name(config->large_policy));
}

static int set_min_free(struct ob_config *config, const char *what, const char *text, struct ob_error *err)
{
	uint64_t bytes = 0;

	if (strcmp(text, "auto") && (ob_size_parse(text, &bytes) < 0 || bytes < OB_MIB || bytes > INT64_MAX))
		return ob_error_set(err, EINVAL, "%s \"%s\" is not a size of at least 1M, such as 512M or 2G, nor \"auto\": it follows from the "
				    "budget", what, text);
	config->min_free_bytes = bytes;
	return 0;
}

static void tell_min_free(const struct ob_config *config, char *text)
{
	if (config->min_free_bytes)
		put_size(text, config->min_free_bytes);
	else
		snprintf(text, VALUE_MAX, "auto");
}

static int set_balloon(struct ob_config *config, const char *what, const char *text, struct ob_error *err)
{
	if (strcmp(text, "auto") && strcmp(text, "off"))
		return ob_error_set(err, EINVAL, "%s \"%s\" is neither \"auto\" nor \"off\"", what, text);
	config->balloon_auto = !strcmp(text, "auto");
	return 0;
}

static void tell_balloon(const struct ob_config *config, char *text)
{
	snprintf(text, VALUE_MAX, "%s", config->balloon_auto ? "auto" : "off");
}

static int set_balloon_floor(struct ob_config *config, const char *what, const char *text, struct ob_error *err)
{
	unsigned long percent = 0;
	uint64_t bytes = 0;
	char *end;

	if (isdigit((unsigned char)*text) && strlen(text) <= 4) {
		percent = strtoul(text, &end, 10);
		percent = strcmp(end, "%") || percent > 100 ? 0 : percent;
	}
	if (!percent && (ob_size_parse(text, &bytes) < 0 || bytes < 64 * OB_MIB || bytes > INT64_MAX))
		return ob_error_set(err, EINVAL, "%s \"%s\" is neither from 1%% to 100%% of a machine's memory nor a size of at least 64M",
				    what, text);
	config->balloon_floor = (struct ob_balloon_floor){ .percent = (unsigned)percent, .bytes = bytes };
	return 0;
}

static void tell_balloon_floor(const struct ob_config *config, char *text)
{
	if (config->balloon_floor.percent)
		snprintf(text, VALUE_MAX, "%u%%", config->balloon_floor.percent);
	else
		put_size(text, config->balloon_floor.bytes);
}

static int set_idle_tax(struct ob_config *config, const char *what, const char *text, struct ob_error *err)
{
	unsigned long percent = OB_BUDGET_TAX_MAX + 1;
	char *end;

	if (isdigit((unsigned char)*text) && strlen(text) <= 4) {
		percent = strtoul(text, &end, 10);
		percent = *end && strcmp(end, "%") ? OB_BUDGET_TAX_MAX + 1 : percent;
	}
	if (percent > OB_BUDGET_TAX_MAX)
		return ob_error_set(err, EINVAL, "%s \"%s\" is not from 0%% to %u%%", what, text, OB_BUDGET_TAX_MAX);
	config->idle_tax_percent = (unsigned)percent;
	return 0;
}

static void tell_idle_tax(const struct ob_config *config, char *text)
{
	snprintf(text, VALUE_MAX, "%u%%", config->idle_tax_percent);
}

static int set_metrics(struct ob_config *config, const char *what, const char *text, struct ob_error *err)
{
	return ob_metrics_parse(what, text, &config->metrics_address, err);
}

static void tell_metrics(const struct ob_config *config, char *text)
{
	snprintf(text, VALUE_MAX, "%s", config->metrics_address.length ? config->metrics_address.text : "none");
}

static const struct {
	const char *name;
	enum ob_log_level level;
} levels[] = {
	{ "error", OB_LOG_ERROR }, { "warning", OB_LOG_WARNING }, { "info", OB_LOG_INFO }, { "debug", OB_LOG_DEBUG },
};

static int set_log(struct ob_config *config, const char *what, const char *text, struct ob_error *err)
{
	for (size_t i = 0; i < OB_ARRAY_LEN(levels); i++)
		if (!strcmp(text, levels[i].name)) {
			config->log_level = levels[i].level;
			return 0;
		}
	return ob_error_set(err, EINVAL, "%s \"%s\" is none of error, warning, info and debug", what, text);
}

static void tell_log(const struct ob_config *config, char *text)
{
	enum ob_log_level level = config->log_level ? config->log_level : ob_log_level_of_environment();

	for (size_t i = 0; i < OB_ARRAY_LEN(levels); i++)
		if (levels[i].level == level)
			snprintf(text, VALUE_MAX, "%s", levels[i].name);
}

static const struct setting {
	const char *name;
	int (*set)(struct ob_config *config, const char *what, const char *text, struct ob_error *err);
	void (*tell)(const struct ob_config *config, char *text); /* into VALUE_MAX bytes */
} settings[] = {
	{ "BALLOON", set_balloon, tell_balloon },
	{ "BALLOON_FLOOR", set_balloon_floor, tell_balloon_floor },
	{ "BUDGET", set_budget, tell_budget },
	{ "IDLE_TAX", set_idle_tax, tell_idle_tax },
	{ "LARGE_PAGES", set_large_pages, tell_large_pages },
	{ "LOG", set_log, tell_log },
	{ "METRICS", set_metrics, tell_metrics },
	{ "MIN_FREE", set_min_free, tell_min_free },
	{ "SHARE", set_share, tell_share },
	{ "SHARE_CPU", set_share_cpu, tell_share_cpu },
	{ "SHARE_INDEX", set_share_index, tell_share_index },
};

/* Whether that is the setting's name as an option has it. */
static int is_option_of(const struct setting *setting, const char *option)
{
	const char *name = setting->name;

	for (; *name && *option; name++, option++)
		if (*option != (*name == '_' ? '-' : tolower((unsigned char)*name)))
			return 0;
	return *name == *option;
}

int ob_config_take_option(struct ob_config *config, const char *option, const char *value, struct ob_error *err)
{
	char what[32];

	snprintf(what, sizeof(what), "--%s", option);
	for (size_t i = 0; i < OB_ARRAY_LEN(settings); i++)
		if (is_option_of(&settings[i], option))
			return settings[i].set(config, what, value, err);
	return ob_error_set(err, EINVAL, "%s is no setting", what);
}

void ob_config_write(const struct ob_config *config, FILE *to)
{
	for (size_t i = 0; i < OB_ARRAY_LEN(settings); i++) {
		char text[VALUE_MAX] = "";

		settings[i].tell(config, text);
		fprintf(to, "%s=%s\n", settings[i].name, text);
	}
}

/* Cuts off a comment, as a shell would: a # that is in quotes, or in the midst of a word, begins none. */
static void cut_comment(char *value)
{
	char quote = '\0', before = ' ';

	for (; *value; before = *value++) {
		if (*value == '#' && !quote && isspace((unsigned char)before)) {
			*value = '\0';
			return;
		}
		if (*value == quote)
			quote = '\0';
		else if (!quote && (*value == '"' || *value == '\''))
			quote = *value;
	}
}

/* The value without the quotes around it. */
static char *unquote(char *value)
{
	size_t length = strlen(value);

	if (length >= 2 && (*value == '"' || *value == '\'') && value[length - 1] == *value) {
		value[length - 1] = '\0';
		value++;
	}
	return value;
}

static int read_line(struct ob_config *config, char *line, struct ob_error *err)
{
	char *value;

	line = ob_text_trim(line);
	if (!*line || *line == '#')
		return 0;
	value = strchr(line, '=');
	if (!value)
		return ob_error_set(err, EINVAL, "\"%.64s\" is not NAME=VALUE", line);
	*value++ = '\0';
	cut_comment(value);
	line = ob_text_trim(line);
	for (size_t i = 0; i < OB_ARRAY_LEN(settings); i++)
		if (!strcmp(line, settings[i].name))
			return settings[i].set(config, settings[i].name, unquote(ob_text_trim(value)), err);
	return ob_error_set(err, EINVAL, "there is no setting \"%.64s\": BALLOON, BALLOON_FLOOR, BUDGET, IDLE_TAX, LARGE_PAGES, LOG, METRICS, "
			    "MIN_FREE, SHARE, SHARE_CPU and SHARE_INDEX are known", line);
}

int ob_config_read(const char *path, struct ob_config *ret_config, struct ob_error *err)
{
	struct ob_config config = ob_config_default;
	char text[OB_CONFIG_MAX + 1], *rest = text, *line;
	struct stat st;
	int r = stat(path, &st) < 0 ? -errno : ob_read_text(path, text, sizeof(text));

	if (r < 0)
		return ob_error_sys(err, -r, "cannot read \"%s\"", path);
	if (st.st_size > OB_CONFIG_MAX)
		return ob_error_set(err, EFBIG, "\"%s\" is longer than the %d bytes that are read", path, OB_CONFIG_MAX);
	if (strlen(text) != (size_t)r)
		return ob_error_set(err, EINVAL, "\"%s\" is not a text file", path);
	for (int number = 1; (line = strsep(&rest, "\n")); number++)
		if (read_line(&config, line, err) < 0)
			return ob_error_wrap(err, "\"%s\", line %d", path, number);
	*ret_config = config;
	return 0;
}
