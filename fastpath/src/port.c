/* Runs on: keeper and control thread. */
#include "port.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct port_ops *type_find(const char *type, struct error *err)
{
	const struct port_ops *ops = port_type_find(type);

	if (!ops)
		error_named(err, EOPNOTSUPP, "PORT_TYPE_UNKNOWN", "there is no port type \"%s\"",
			    type);
	return ops;
}

int port_options_check(const struct port_ops *ops, const struct port_options *options,
		       struct error *err)
{
	for (unsigned i = 0; ops->options && i < options->count; i++) {
		const char *const *name = ops->options;

		while (*name && strcmp(*name, options->items[i].name) != 0)
			name++;
		if (!*name)
			return error_set(err, EINVAL, "%s: there is no option \"%s\"", ops->type,
					 options->items[i].name);
	}
	return 0;
}

int port_acquire(const char *type, const struct port_options *options, struct port_fds *fds,
		 struct error *err)
{
	const struct port_ops *ops = type_find(type, err);
	int status;

	if (!ops)
		return -EOPNOTSUPP;
	memset(fds, 0, sizeof(*fds));
	status = port_options_check(ops, options, err);
	if (status || !ops->acquire)
		return status;
	return ops->acquire(options, fds, err);
}

void port_release(const char *type, const struct port_options *options, const struct port_fds *fds)
{
	const struct port_ops *ops = port_type_find(type);

	if (ops && ops->release)
		ops->release(options, fds);
}

const char *port_option_text(const struct port_options *options, const char *name,
			     const char *fallback)
{
	for (unsigned i = 0; i < options->count; i++) {
		if (strcmp(options->items[i].name, name) == 0)
			return options->items[i].value;
	}
	return fallback;
}

int port_option_u32(const struct port_options *options, const char *name, uint32_t fallback,
		    uint32_t min, uint32_t max, uint32_t *out, struct error *err)
{
	const char *text = port_option_text(options, name, NULL);
	unsigned long long value;
	char *end;

	if (!text) {
		*out = fallback;
		return 0;
	}
	errno = 0;
	value = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end || errno)
		return error_set(err, EINVAL, "%s: %s \"%s\" is not a number", options->port, name,
				 text);
	if (value < min || value > max)
		return error_set(err, EINVAL, "%s: %s %llu is not between %u and %u", options->port,
				 name, value, min, max);
	*out = (uint32_t)value;
	return 0;
}

int port_option_bool(const struct port_options *options, const char *name, bool fallback, bool *out,
		     struct error *err)
{
	const char *text = port_option_text(options, name, NULL);

	if (!text)
		*out = fallback;
	else if (strcmp(text, "true") == 0 || strcmp(text, "1") == 0)
		*out = true;
	else if (strcmp(text, "false") == 0 || strcmp(text, "0") == 0)
		*out = false;
	else
		return error_set(err, EINVAL, "%s: %s \"%s\" is neither true nor false",
				 options->port, name, text);
	return 0;
}

uint32_t port_state_u32(const struct port_fds *fds, const char *key, uint32_t fallback)
{
	size_t length = strlen(key);
	const char *at = fds->state;

	while (*at) {
		if (strncmp(at, key, length) == 0 && at[length] == '=')
			return (uint32_t)strtoul(at + length + 1, NULL, 0);
		at += strcspn(at, " ");
		at += strspn(at, " ");
	}
	return fallback;
}
