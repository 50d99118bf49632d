/* A portspec of a stranger: whatever the text, a verdict, and what is taken is in range. */
#include <stdlib.h>
#include <string.h>

#include "portspec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void need(bool good)
{
	if (!good)
		abort();
}

static void check_name(const struct portspec_name *name)
{
	size_t length = strnlen(name->name, sizeof(name->name));

	need(length > 0 && length < sizeof(name->name));
	need(strnlen(name->ifname, sizeof(name->ifname)) < sizeof(name->ifname));
	need(strncmp(name->name, name->ifname, strlen(name->ifname)) == 0);
	need(!name->pipe || strchr(name->name, name->pipe));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const heads[] = {"", "netmap:eth0", "vale0:p1", "netmap:e@conf:"};
	struct portspec spec;
	struct error err = {0};
	const char *head;
	char *text;

	if (!size)
		return 0;
	head = heads[data[0] % 4];
	text =
	    malloc(strlen(head) + size); /* of its own length, so that a sanitizer sees its end */
	need(text);
	memcpy(text, head, strlen(head));
	memcpy(text + strlen(head), data + 1, size - 1);
	text[strlen(head) + size - 1] = 0;
	if (portspec_parse(text, &spec, &err) == 0) {
		check_name(&spec.port);
		if (spec.share.name[0])
			check_name(&spec.share);
		need(spec.ringid <= PORTSPEC_RING_MAX && spec.offset_bits <= 64);
		need(strnlen(spec.file, sizeof(spec.file)) < sizeof(spec.file));
	} else {
		need(err.code && strncmp(err.message, "character ", 10) == 0);
	}
	free(text);
	return 0;
}
