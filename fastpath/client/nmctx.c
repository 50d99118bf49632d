#include "nmport.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { SENTENCE_MAX = 1000 };

int nmctx_threadsafe = 1;

static void to_stderr(struct nmctx *ctx, const char *sentence)
{
	(void)ctx;
	fprintf(stderr, "%s\n", sentence);
}

static void *from_heap(struct nmctx *ctx, size_t bytes)
{
	(void)ctx;
	return malloc(bytes);
}

static void to_heap(struct nmctx *ctx, void *memory)
{
	(void)ctx;
	free(memory);
}

static void lock_regions(struct nmctx *ctx, int lock)
{
	static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	(void)ctx;
	if (lock)
		pthread_mutex_lock(&mutex);
	else
		pthread_mutex_unlock(&mutex);
}

static struct nmctx first = {
    .verbose = 1, .error = to_stderr, .malloc = from_heap, .free = to_heap, .lock = lock_regions};
static struct nmctx *current = &first;

struct nmctx *nmctx_get(void)
{
	return current;
}

struct nmctx *nmctx_set_default(struct nmctx *ctx)
{
	struct nmctx *before = current;
	current = ctx;
	return before;
}

void nmctx_set_threadsafe(void)
{
	first.lock = lock_regions;
}

void nmctx_ferror(struct nmctx *ctx, const char *format, ...)
{
	char sentence[SENTENCE_MAX];
	va_list more;
	if (!ctx->verbose)
		return;
	va_start(more, format);
	vsnprintf(sentence, sizeof sentence, format, more);
	va_end(more);
	ctx->error(ctx, sentence);
}

void *nmctx_malloc(struct nmctx *ctx, size_t bytes)
{
	return ctx->malloc(ctx, bytes);
}

void nmctx_free(struct nmctx *ctx, void *memory)
{
	ctx->free(ctx, memory);
}

void nmctx_lock(struct nmctx *ctx)
{
	if (ctx->lock)
		ctx->lock(ctx, 1);
}

void nmctx_unlock(struct nmctx *ctx)
{
	if (ctx->lock)
		ctx->lock(ctx, 0);
}
