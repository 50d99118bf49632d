/* What it is and who runs it: portspec.h. */
#include "portspec.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { OPTION_KEYS_MAX = 9, VALE_PART_MAX = 15, MEM_ID_MAX = 65535 };

/* A walk over the text. Sub-walks (the value of @share) have an end of their own. */
struct walk {
	const char *text;
	const char *at;
	const char *end;
	struct error *err;
};

/* One key of an option: a number for one or two fields, or (bytes 0) the option's text. */
struct option_key {
	const char *word;
	uint32_t max;
	uint16_t field[2]; /* offsets in struct portspec; the second 0: there is none */
	uint8_t bytes;	   /* of the fields */
};

struct option {
	const char *word;
	bool first; /* the first key has to be there, and is what @word=... gives */
	struct option_key keys[OPTION_KEYS_MAX];
};

#define ONE(word, max, field)                                                                      \
	{                                                                                          \
		word, max, {offsetof(struct portspec, field)},                                     \
		    sizeof(((struct portspec *)0)->field)                                          \
	}
#define BOTH(word, max, one, two)                                                                  \
	{                                                                                          \
		word, max, {offsetof(struct portspec, one), offsetof(struct portspec, two)},       \
		    sizeof(((struct portspec *)0)->one)                                            \
	}

/* Keys that set two fields come first: the others overrule them, in whatever order they stand. */
static const struct option options[] = {
    {"share", true, {{.word = "port"}}},
    {"conf",
     false,
     {BOTH("rings", UINT16_MAX, tx_rings, rx_rings),
      BOTH("host-rings", UINT16_MAX, host_tx_rings, host_rx_rings),
      BOTH("slots", UINT32_MAX, tx_slots, rx_slots), ONE("tx-rings", UINT16_MAX, tx_rings),
      ONE("rx-rings", UINT16_MAX, rx_rings), ONE("host-tx-rings", UINT16_MAX, host_tx_rings),
      ONE("host-rx-rings", UINT16_MAX, host_rx_rings), ONE("tx-slots", UINT32_MAX, tx_slots),
      ONE("rx-slots", UINT32_MAX, rx_slots)}},
    {"extmem",
     true,
     {{.word = "file"},
      ONE("if-num", UINT32_MAX, if_num),
      ONE("if-size", UINT32_MAX, if_size),
      ONE("ring-num", UINT32_MAX, ring_num),
      ONE("ring-size", UINT32_MAX, ring_size),
      ONE("buf-num", UINT32_MAX, buf_num),
      ONE("buf-size", UINT32_MAX, buf_size)}},
    {"offset", true, {ONE("initial", UINT16_MAX, offset_initial), ONE("bits", 64, offset_bits)}},
};

static int refuse(const struct walk *walk, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static int refuse(const struct walk *walk, const char *format, ...)
{
	char what[200];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	return error_set(walk->err, EINVAL, "character %u: %s",
			 (unsigned)(walk->at - walk->text) + 1, what);
}

/* --- characters and numbers ------------------------------------------------------------------ */

/* 0 at the end: a portspec has no zero byte in it. */
static char peek(const struct walk *walk)
{
	return walk->at < walk->end ? *walk->at : 0;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_identifier(const char *from, const char *to)
{
	for (; from < to; from++) {
		if (!is_digit(*from) && !(*from >= 'a' && *from <= 'z') &&
		    !(*from >= 'A' && *from <= 'Z') && *from != '_')
			return false;
	}
	return true;
}

/* The first of the characters in `set` from walk->at on, or the end. */
static const char *find(const struct walk *walk, const char *set)
{
	const char *at = walk->at;

	while (at < walk->end && !strchr(set, *at))
		at++;
	return at;
}

/* A decimal number up to `max`; `what` is what it is, for the message. */
static int take_number(struct walk *walk, const char *what, uint32_t max, uint32_t *out)
{
	uint64_t value = 0;
	const struct walk start = *walk;

	if (!is_digit(peek(walk)))
		return refuse(walk, "%s is a number", what);
	while (is_digit(peek(walk))) {
		value = value * 10 + (uint64_t)(*walk->at++ - '0');
		if (value > max)
			return refuse(&start, "%s is at most %u", what, max);
	}
	*out = (uint32_t)value;
	return 0;
}

/* --- names ----------------------------------------------------------------------------------- */

/* What the kernel takes as an interface's name. */
static int check_interface(const struct walk *walk, const char *name, size_t length)
{
	if (!length)
		return refuse(walk, "a port has a name");
	if (length >= NETMAP_IFNAMSIZ)
		return refuse(walk, "an interface's name has at most 15 bytes");
	if (memchr(name, ':', length))
		return refuse(walk, "an interface's name has no colon");
	if (name[0] == '.' && (length == 1 || (length == 2 && name[1] == '.')))
		return refuse(walk, "an interface's name is neither . nor ..");
	return 0;
}

/* "valeID:PORT", of which `length` bytes are before a pipe's sign. */
static int check_vale(const struct walk *walk, const char *name, size_t length)
{
	const char *colon = memchr(name, ':', length), *end = name + length;

	if (!colon)
		return refuse(walk, "a VALE port is named valeSWITCH:PORT");
	if (!is_identifier(name, colon) || colon - name > VALE_PART_MAX)
		return refuse(walk, "a VALE switch is vale and letters, digits or _, 15 in all");
	if (colon + 1 == end || end - colon - 1 > VALE_PART_MAX || !is_identifier(colon + 1, end))
		return refuse(walk, "a VALE port is 1 to 15 letters, digits or _");
	return 0;
}

/* What stands between a prefix and the first modifier; the walk ends there. */
static int take_name(struct walk *walk, struct portspec_name *out)
{
	const char *start = walk->at, *end, *sign;
	int status;

	if (strncmp(start, "netmap:", 7) == 0 && walk->end - start >= 7)
		walk->at = start += 7;
	else if (walk->end - start < 4 || strncmp(start, "vale", 4) != 0)
		return refuse(walk, "a portspec begins with netmap: or vale");
	end = find(walk, "-*^/@");
	sign = find(walk, "{}");
	if (sign > end)
		sign = end;
	if (end - start >= PORTSPEC_NAME_MAX)
		return refuse(walk, "a port's name has at most 63 bytes");
	if (sign - start >= 4 && strncmp(start, "vale", 4) == 0)
		status = check_vale(walk, start, (size_t)(sign - start));
	else
		status = check_interface(walk, start, (size_t)(sign - start));
	if (status)
		return status;
	*out = (struct portspec_name){.pipe = sign < end ? *sign : 0};
	memcpy(out->name, start, (size_t)(end - start));
	if (!memchr(start, ':', (size_t)(sign - start)))
		memcpy(out->ifname, start, (size_t)(sign - start));
	walk->at = sign;
	if (sign < end && (sign + 1 == end || !is_identifier(sign + 1, end)))
		return refuse(walk, "a pipe's name is letters, digits or _");
	walk->at = end;
	return 0;
}

/* --- rings, flags, region -------------------------------------------------------------------- */

static int take_ring(struct walk *walk, struct portspec *out)
{
	uint32_t ring;
	int status = take_number(walk, "a ring", PORTSPEC_RING_MAX, &ring);

	out->ringid = (uint16_t)ring;
	return status;
}

static int take_rings(struct walk *walk, struct portspec *out)
{
	out->mode = NR_REG_ALL_NIC;
	switch (peek(walk)) {
	case '*':
		walk->at++;
		out->mode = NR_REG_NIC_SW;
		return 0;
	case '-':
		walk->at++;
		out->mode = NR_REG_ONE_NIC;
		return take_ring(walk, out);
	case '^':
		walk->at++;
		out->mode = NR_REG_SW;
		if (!is_digit(peek(walk)))
			return 0;
		out->mode = NR_REG_ONE_SW;
		return take_ring(walk, out);
	default:
		return 0;
	}
}

static int take_flags(struct walk *walk, struct portspec *out)
{
	static const struct {
		char letter;
		uint32_t flag;
	} flags[] = {
	    {'x', NR_EXCLUSIVE},  {'z', NR_ZCOPY_MON},	   {'t', NR_MONITOR_TX},
	    {'r', NR_MONITOR_RX}, {'R', NR_RX_RINGS_ONLY}, {'T', NR_TX_RINGS_ONLY},
	};
	enum { FLAGS = sizeof(flags) / sizeof(flags[0]) };

	if (!peek(walk))
		return refuse(walk, "flags follow the /");
	for (; peek(walk) && peek(walk) != '@'; walk->at++) {
		unsigned i = 0;

		while (i < FLAGS && flags[i].letter != *walk->at)
			i++;
		if (i == FLAGS)
			return refuse(walk, "a flag is one of x z t r R T");
		out->flags |= flags[i].flag;
	}
	return 0;
}

static int take_region(struct walk *walk, struct portspec *out)
{
	const struct walk start = *walk;
	uint32_t region;
	int status;

	if (out->mem_id)
		return refuse(walk, "double setting of the memory region");
	status = take_number(walk, "a memory region", MEM_ID_MAX, &region);
	if (!status && !region)
		return refuse(&start, "a memory region is at least 1");
	out->mem_id = (uint16_t)region;
	return status;
}

/* --- options --------------------------------------------------------------------------------- */

static bool same_word(const char *word, const char *from, const char *to)
{
	for (; from < to; from++, word++) {
		if (*word != (*from == '_' ? '-' : *from))
			return false;
	}
	return !*word;
}

static void set_number(struct portspec *out, const struct option_key *key, uint32_t value)
{
	for (unsigned i = 0; i < 2 && (!i || key->field[i]); i++) {
		char *field = (char *)out + key->field[i];

		if (key->bytes == sizeof(uint16_t))
			*(uint16_t *)field = (uint16_t)value;
		else
			*(uint32_t *)field = value;
	}
}

static int set_text(struct walk *value, struct portspec *out, const struct option *option)
{
	size_t length = (size_t)(value->end - value->at);

	if (strcmp(option->word, "share") == 0) {
		if (out->share.name[0])
			return refuse(value, "double setting of @share");
		return take_name(value, &out->share);
	}
	if (out->file[0])
		return refuse(value, "double setting of @extmem");
	if (length >= sizeof(out->file))
		return refuse(value, "a file's name has at most %u bytes", PORTSPEC_FILE_MAX - 1);
	memcpy(out->file, value->at, length);
	return 0;
}

/* Puts the values of an option where they belong, in the order of its table. */
static int set_values(struct walk *values, struct portspec *out, const struct option *option)
{
	uint32_t number;
	int status;

	for (unsigned i = 0; i < OPTION_KEYS_MAX && option->keys[i].word; i++) {
		const struct option_key *key = &option->keys[i];
		struct walk *value = &values[i];

		if (!value->at)
			continue;
		if (!key->bytes) {
			status = set_text(value, out, option);
		} else {
			status = take_number(value, "a value", key->max, &number);
			if (!status && value->at < value->end)
				status = refuse(value, "a value is a number");
			if (!status)
				set_number(out, key, number);
		}
		if (status)
			return status;
	}
	if (strcmp(option->word, "offset") == 0)
		out->has_offset = true;
	return 0;
}

static int find_key(const struct walk *walk, const struct option *option, const char *to)
{
	for (unsigned i = 0; i < OPTION_KEYS_MAX && option->keys[i].word; i++) {
		if (same_word(option->keys[i].word, walk->at, to))
			return (int)i;
	}
	return refuse(walk, "@%s has no such key", option->word);
}

/* "key=value,key=value"; an empty value is as good as none. */
static int take_keys(struct walk *walk, const struct option *option, struct walk *values)
{
	while (walk->at < walk->end) {
		const char *sign = find(walk, "=,"), *comma;
		int i = find_key(walk, option, sign);

		if (i < 0)
			return i;
		if (values[i].at)
			return refuse(walk, "@%s has this key twice", option->word);
		walk->at = sign;
		if (peek(walk) != '=')
			return refuse(walk, "= and a value follow the key");
		walk->at++;
		comma = find(walk, ",");
		if (comma > walk->at) {
			values[i] = *walk;
			values[i].end = comma;
		}
		walk->at = comma;
		if (comma < walk->end && ++walk->at == walk->end)
			return refuse(walk, "a key follows the comma");
	}
	return 0;
}

/* One option, without its @; the walk is over this option only. */
static int take_option(struct walk *walk, struct portspec *out)
{
	struct walk values[OPTION_KEYS_MAX] = {0};
	const char *sign = find(walk, ":=");
	const struct option *option = NULL;
	int status = 0;

	for (unsigned i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		size_t length = strlen(options[i].word);

		if ((size_t)(sign - walk->at) == length &&
		    memcmp(options[i].word, walk->at, length) == 0)
			option = &options[i];
	}
	if (!option)
		return refuse(walk, "an option is one of share, conf, extmem, offset");
	walk->at = sign;
	if (sign == walk->end)
		return refuse(walk, "= or : follows @%s", option->word);
	walk->at++;
	if (*sign == ':') {
		status = take_keys(walk, option, values);
	} else if (!option->first) {
		walk->at = sign;
		status = refuse(walk, "@%s takes : and keys", option->word);
	} else if (walk->at == walk->end) {
		status = refuse(walk, "a value follows @%s=", option->word);
	} else {
		values[0] = *walk;
	}
	if (status)
		return status;
	if (option->first && !values[0].at)
		return refuse(walk, "@%s needs %s=", option->word, option->keys[0].word);
	return set_values(values, out, option);
}

static int take_options(struct walk *walk, struct portspec *out)
{
	for (;;) {
		struct walk one = *walk;
		int status;

		one.end = find(walk, "@");
		status = take_option(&one, out);
		walk->at = one.end;
		if (status || walk->at == walk->end)
			return status;
		walk->at++;
	}
}

/* --- the whole ------------------------------------------------------------------------------- */

int portspec_parse(const char *text, struct portspec *out, struct error *err)
{
	size_t length = strnlen(text, PORTSPEC_MAX);
	struct walk walk = {.text = text, .at = text, .end = text + length, .err = err};
	int status;

	*out = (struct portspec){0};
	if (length == PORTSPEC_MAX) {
		walk.at = walk.end - 1;
		return refuse(&walk, "a portspec has at most %u bytes", PORTSPEC_MAX - 1);
	}
	for (; walk.at < walk.end; walk.at++) {
		if (*walk.at <= ' ' || *walk.at > '~')
			return refuse(&walk, "a portspec is printable ASCII without spaces");
	}
	walk.at = text;
	status = take_name(&walk, &out->port);
	if (!status)
		status = take_rings(&walk, out);
	while (!status && peek(&walk)) {
		char sign = *walk.at;

		if (sign != '/' && sign != '@') {
			status = refuse(&walk, "only / and @ may follow here");
			break;
		}
		walk.at++;
		if (sign == '/')
			status = take_flags(&walk, out);
		else if (!peek(&walk))
			status = refuse(&walk, "a memory region or an option follows the @");
		else if (is_digit(peek(&walk)))
			status = take_region(&walk, out);
		else
			return take_options(&walk, out);
	}
	return status;
}
