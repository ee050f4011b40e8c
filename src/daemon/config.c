/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file is of the kind that lies in /etc/default: lines NAME=VALUE, a value perhaps in quotes, # in front of a comment.
 * A line that is not understood makes the whole file invalid. At the start that is an error; at SIGHUP overbookd goes on
 * with what it had, since to run by half of a file could mean to run without a budget.
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

int ob_config_parse_budget(const char *what, const char *text, uint64_t *ret_bytes, struct ob_error *err)
{
	uint64_t bytes;

	if (!strcmp(text, "none")) {
		*ret_bytes = OB_BUDGET_NONE;
		return 0;
	}
	if (ob_size_parse(text, &bytes) < 0 || bytes < OB_LIMIT_MIN || bytes > INT64_MAX)
		return ob_error_set(err, EINVAL, "%s \"%s\" is not a size of at least 16M, such as 512M or 16G, nor \"none\"", what,
				    text);
	*ret_bytes = bytes;
	return 0;
}

int ob_config_parse_share(const char *what, const char *text, bool *ret_sharing, struct ob_error *err)
{
	if (strcmp(text, "on") && strcmp(text, "off"))
		return ob_error_set(err, EINVAL, "%s \"%s\" is neither \"on\" nor \"off\"", what, text);
	*ret_sharing = !strcmp(text, "on");
	return 0;
}

int ob_config_parse_share_cpu(const char *what, const char *text, unsigned *ret_permille, struct ob_error *err)
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
	*ret_permille = (unsigned)permille;
	return 0;
}

int ob_config_parse_share_index(const char *what, const char *text, unsigned *ret_subpages, struct ob_error *err)
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
			*ret_subpages = known[i].subpages;
			return 0;
		}
	return ob_error_set(err, EINVAL, "%s \"%s\" is neither \"hash\" nor \"cmd-subpage\", which may have \",subpages=\" and 1, 2, 4 or 8 "
			    "behind it", what, text);
}

int ob_config_parse_large_pages(const char *what, const char *text, enum ob_large_policy *ret_policy, struct ob_error *err)
{
	int policy = ob_large_policy_parse(text);

	if (policy < 0)
		return ob_error_set(err, EINVAL, "%s \"%s\" is none of \"proactive\", \"late\", \"never\" and \"off\"", what, text);
	*ret_policy = (enum ob_large_policy)policy;
	return 0;
}

int ob_config_parse_min_free(const char *what, const char *text, uint64_t *ret_bytes, struct ob_error *err)
{
	uint64_t bytes;

	if (ob_size_parse(text, &bytes) < 0 || bytes < OB_MIB || bytes > INT64_MAX)
		return ob_error_set(err, EINVAL, "%s \"%s\" is not a size of at least 1M, such as 512M or 2G; without it, it follows from the "
				    "budget", what, text);
	*ret_bytes = bytes;
	return 0;
}

int ob_config_parse_balloon(const char *what, const char *text, bool *ret_auto, struct ob_error *err)
{
	if (strcmp(text, "auto") && strcmp(text, "off"))
		return ob_error_set(err, EINVAL, "%s \"%s\" is neither \"auto\" nor \"off\"", what, text);
	*ret_auto = !strcmp(text, "auto");
	return 0;
}

int ob_config_parse_balloon_floor(const char *what, const char *text, struct ob_balloon_floor *ret_floor, struct ob_error *err)
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
	*ret_floor = (struct ob_balloon_floor){ .percent = (unsigned)percent, .bytes = bytes };
	return 0;
}

int ob_config_parse_idle_tax(const char *what, const char *text, unsigned *ret_percent, struct ob_error *err)
{
	unsigned long percent = OB_BUDGET_TAX_MAX + 1;
	char *end;

	if (isdigit((unsigned char)*text) && strlen(text) <= 4) {
		percent = strtoul(text, &end, 10);
		percent = *end && strcmp(end, "%") ? OB_BUDGET_TAX_MAX + 1 : percent;
	}
	if (percent > OB_BUDGET_TAX_MAX)
		return ob_error_set(err, EINVAL, "%s \"%s\" is not from 0%% to %u%%", what, text, OB_BUDGET_TAX_MAX);
	*ret_percent = (unsigned)percent;
	return 0;
}

static int set_balloon(struct ob_config *config, const char *value, struct ob_error *err)
{
	return ob_config_parse_balloon("BALLOON", value, &config->balloon_auto, err);
}

static int set_balloon_floor(struct ob_config *config, const char *value, struct ob_error *err)
{
	return ob_config_parse_balloon_floor("BALLOON_FLOOR", value, &config->balloon_floor, err);
}

static int set_share(struct ob_config *config, const char *value, struct ob_error *err)
{
	return ob_config_parse_share("SHARE", value, &config->sharing, err);
}

static int set_share_cpu(struct ob_config *config, const char *value, struct ob_error *err)
{
	return ob_config_parse_share_cpu("SHARE_CPU", value, &config->share_cpu_permille, err);
}

static int set_share_index(struct ob_config *config, const char *value, struct ob_error *err)
{
	return ob_config_parse_share_index("SHARE_INDEX", value, &config->share_subpages, err);
}

static int set_large_pages(struct ob_config *config, const char *value, struct ob_error *err)
{
	return ob_config_parse_large_pages("LARGE_PAGES", value, &config->large_policy, err);
}

static int set_min_free(struct ob_config *config, const char *value, struct ob_error *err)
{
	return ob_config_parse_min_free("MIN_FREE", value, &config->min_free_bytes, err);
}

static int set_budget(struct ob_config *config, const char *value, struct ob_error *err)
{
	return ob_config_parse_budget("BUDGET", value, &config->budget_bytes, err);
}

static int set_idle_tax(struct ob_config *config, const char *value, struct ob_error *err)
{
	return ob_config_parse_idle_tax("IDLE_TAX", value, &config->idle_tax_percent, err);
}

static int set_metrics(struct ob_config *config, const char *value, struct ob_error *err)
{
	return ob_metrics_parse("METRICS", value, &config->metrics_address, err);
}

static int set_log(struct ob_config *config, const char *value, struct ob_error *err)
{
	static const struct {
		const char *name;
		enum ob_log_level level;
	} levels[] = {
		{ "error", OB_LOG_ERROR }, { "warning", OB_LOG_WARNING }, { "info", OB_LOG_INFO }, { "debug", OB_LOG_DEBUG },
	};

	for (size_t i = 0; i < OB_ARRAY_LEN(levels); i++)
		if (!strcmp(value, levels[i].name)) {
			config->log_level = levels[i].level;
			return 0;
		}
	return ob_error_set(err, EINVAL, "LOG \"%s\" is none of error, warning, info and debug", value);
}

static const struct {
	const char *name;
	int (*set)(struct ob_config *config, const char *value, struct ob_error *err);
} settings[] = {
	{ "BALLOON", set_balloon },
	{ "BALLOON_FLOOR", set_balloon_floor },
	{ "BUDGET", set_budget },
	{ "IDLE_TAX", set_idle_tax },
	{ "LARGE_PAGES", set_large_pages },
	{ "LOG", set_log },
	{ "METRICS", set_metrics },
	{ "MIN_FREE", set_min_free },
	{ "SHARE", set_share },
	{ "SHARE_CPU", set_share_cpu },
	{ "SHARE_INDEX", set_share_index },
};

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
	line = ob_text_trim(line);
	for (size_t i = 0; i < OB_ARRAY_LEN(settings); i++)
		if (!strcmp(line, settings[i].name))
			return settings[i].set(config, unquote(ob_text_trim(value)), err);
	return ob_error_set(err, EINVAL, "there is no setting \"%.64s\": BALLOON, BALLOON_FLOOR, BUDGET, IDLE_TAX, LARGE_PAGES, LOG, METRICS, "
			    "MIN_FREE, SHARE, SHARE_CPU and SHARE_INDEX are known", line);
}

int ob_config_read(const char *path, struct ob_config *ret_config, struct ob_error *err)
{
	struct ob_config config = *ret_config;
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
