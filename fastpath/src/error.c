/* What it is and who runs it: error.h. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>

static void error_fill(struct error *err, int code, const char *name, const char *fmt, va_list args)
    __attribute__((format(printf, 4, 0)));

static void error_fill(struct error *err, int code, const char *name, const char *fmt, va_list args)
{
	if (!err)
		return;
	err->code = code;
	snprintf(err->name, sizeof(err->name), "%s", name);
	vsnprintf(err->message, sizeof(err->message), fmt, args);
}

int error_set(struct error *err, int code, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	error_fill(err, code, "", fmt, args);
	va_end(args);
	return -code;
}

int error_named(struct error *err, int code, const char *name, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	error_fill(err, code, name, fmt, args);
	va_end(args);
	return -code;
}
