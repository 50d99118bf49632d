/*
 * Runs on: control thread. All rules of a classifier, in their order and by slot: pages of pointers
 * that versions share, so that a change copies one page of each and the array of pages.
 */
#include <errno.h>
#include <stdlib.h>

#include "classify_tables.h"

struct rule_node *node_create(const struct rule_config *config)
{
	size_t bytes = config->match_count * sizeof(struct rule_match);
	struct rule_node *node = malloc(sizeof(*node) + bytes);

	if (!node)
		return NULL;
	if (bytes)
		memcpy(node->matches, config->matches, bytes);
	node->holders = 1;
	node->rule = (struct classify_rule){.slot = config->slot,
					    .priority = config->priority,
					    .action = config->action,
					    .match_count = config->match_count,
					    .matches = node->matches};
	memcpy(node->rule.id, config->id, sizeof(node->rule.id));
	return node;
}

void node_drop(struct rule_node *node)
{
	if (!--node->holders)
		free(node);
}

/* --- pages -------------------------------------------------------------------------------------
 */

static struct rule_page *page_create(void)
{
	struct rule_page *page = calloc(1, sizeof(*page));

	if (page)
		page->holders = 1;
	return page;
}

/* `holds`: the page's rules count it as a holder. */
static void page_drop(struct rule_page *page, bool holds)
{
	if (!page || --page->holders)
		return;
	for (uint32_t i = 0; holds && i < PAGE_RULES; i++)
		if (page->rules[i])
			node_drop(page->rules[i]);
	free(page);
}

/* Makes the page one that may be changed. */
static int page_own(struct rule_page **at, bool holds)
{
	struct rule_page *page;

	if ((*at)->holders == 1)
		return 0;
	page = page_create();
	if (!page)
		return -ENOMEM;
	page->count = (*at)->count;
	memcpy(page->rules, (*at)->rules, sizeof(page->rules));
	for (uint32_t i = 0; holds && i < PAGE_RULES; i++)
		if (page->rules[i])
			page->rules[i]->holders++;
	(*at)->holders--;
	*at = page;
	return 0;
}

/* An array of pages as another holder sees it. */
static int pages_copy(struct rule_page ***to, struct rule_page *const *from, uint32_t count)
{
	*to = calloc((size_t)count + 1, sizeof(**to));
	if (!*to)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		(*to)[i] = from[i];
		if (from[i])
			from[i]->holders++;
	}
	return 0;
}

static int pages_resize(struct rule_page ***pages, uint32_t count)
{
	struct rule_page **more = realloc(*pages, ((size_t)count + 1) * sizeof(*more));

	if (!more)
		return -ENOMEM;
	*pages = more;
	return 0;
}

/* --- by slot -----------------------------------------------------------------------------------
 */

int slot_map_copy(struct slot_map *to, const struct slot_map *from)
{
	int status = pages_copy(&to->pages, from->pages, from->count);

	to->count = status ? 0 : from->count;
	return status;
}

void slot_map_free(struct slot_map *map)
{
	for (uint32_t i = 0; i < map->count; i++)
		page_drop(map->pages[i], true);
	free(map->pages);
}

struct rule_node *slot_map_get(const struct slot_map *map, uint32_t slot)
{
	uint32_t number = slot / PAGE_RULES;

	if (number >= map->count || !map->pages[number])
		return NULL;
	return map->pages[number]->rules[slot % PAGE_RULES];
}

static int slot_map_grow(struct slot_map *map, uint32_t count)
{
	int status = pages_resize(&map->pages, count);

	for (; !status && map->count < count; map->count++)
		map->pages[map->count] = NULL;
	return status;
}

int slot_map_set(struct slot_map *map, uint32_t slot, struct rule_node *node)
{
	uint32_t number = slot / PAGE_RULES;
	struct rule_node **place;
	int status = 0;

	if (number >= map->count)
		status = slot_map_grow(map, number + 1);
	if (!status && !map->pages[number]) {
		map->pages[number] = page_create();
		status = map->pages[number] ? 0 : -ENOMEM;
	} else if (!status) {
		status = page_own(&map->pages[number], true);
	}
	if (status)
		return status;
	place = &map->pages[number]->rules[slot % PAGE_RULES];
	if (node)
		node->holders++;
	if (*place)
		node_drop(*place);
	*place = node;
	return 0;
}

/* --- in order ----------------------------------------------------------------------------------
 */

int rule_list_copy(struct rule_list *to, const struct rule_list *from)
{
	int status = pages_copy(&to->pages, from->pages, from->count);

	to->count = status ? 0 : from->count;
	return status;
}

void rule_list_free(struct rule_list *list)
{
	for (uint32_t i = 0; i < list->count; i++)
		page_drop(list->pages[i], false);
	free(list->pages);
	free(list->first);
}

/* The last page that begins at or before the rule; 0 when it comes before all. */
static uint32_t list_page(const struct rule_list *list, const struct classify_rule *rule)
{
	uint32_t first = 0, count = list->count;

	while (count > 1) {
		uint32_t half = count / 2;

		if (rule_compare(&list->pages[first + half]->rules[0]->rule, rule) <= 0) {
			first += half;
			count -= half;
		} else {
			count = half;
		}
	}
	return first;
}

/* The first rule of a page that does not come before this one. */
static uint32_t page_find(const struct rule_page *page, const struct classify_rule *rule)
{
	uint32_t first = 0, count = page->count;

	while (count > 0) {
		uint32_t half = count / 2;

		if (rule_compare(&page->rules[first + half]->rule, rule) < 0) {
			first += half + 1;
			count -= half + 1;
		} else {
			count = half;
		}
	}
	return first;
}

/* An empty page behind page `number`, or the first one. */
static int list_page_add(struct rule_list *list, uint32_t number)
{
	struct rule_page *page = page_create();

	if (!page || pages_resize(&list->pages, list->count + 1)) {
		free(page);
		return -ENOMEM;
	}
	memmove(&list->pages[number + 1], &list->pages[number],
		(list->count - number) * sizeof(list->pages[0]));
	list->pages[number] = page;
	list->count++;
	return 0;
}

/* The second half of a full page moves to a new one behind it. */
static int list_split(struct rule_list *list, uint32_t number)
{
	struct rule_page *page, *behind;
	int status = list_page_add(list, number + 1);

	if (status)
		return status;
	page = list->pages[number];
	behind = list->pages[number + 1];
	behind->count = page->count / 2;
	page->count -= behind->count;
	memcpy(behind->rules, &page->rules[page->count], behind->count * sizeof(page->rules[0]));
	memset(&page->rules[page->count], 0, behind->count * sizeof(page->rules[0]));
	return 0;
}

int rule_list_insert(struct rule_list *list, struct rule_node *node)
{
	uint32_t number = list_page(list, &node->rule), at;
	struct rule_page *page;
	int status = list->count ? page_own(&list->pages[number], false) : list_page_add(list, 0);

	if (!status && list->pages[number]->count == PAGE_RULES) {
		status = list_split(list, number);
		if (!status)
			number = list_page(list, &node->rule);
	}
	if (status)
		return status;
	page = list->pages[number];
	at = page_find(page, &node->rule);
	memmove(&page->rules[at + 1], &page->rules[at],
		(page->count - at) * sizeof(page->rules[0]));
	page->rules[at] = node;
	page->count++;
	return 0;
}

int rule_list_remove(struct rule_list *list, const struct rule_node *node)
{
	uint32_t number = list_page(list, &node->rule), at;
	struct rule_page *page;
	int status = page_own(&list->pages[number], false);

	if (status)
		return status;
	page = list->pages[number];
	at = page_find(page, &node->rule);
	page->count--;
	memmove(&page->rules[at], &page->rules[at + 1],
		(page->count - at) * sizeof(page->rules[0]));
	page->rules[page->count] = NULL;
	if (page->count)
		return 0;
	free(page);
	list->count--;
	memmove(&list->pages[number], &list->pages[number + 1],
		(list->count - number) * sizeof(list->pages[0]));
	return 0;
}

int rule_list_fill(struct rule_list *list, struct rule_node *const *nodes, uint32_t count)
{
	static const uint32_t full = PAGE_RULES * 3 / 4; /* room for some more */

	for (uint32_t at = 0; at < count; at += full) {
		int status = list_page_add(list, list->count);
		struct rule_page *page;

		if (status)
			return status;
		page = list->pages[list->count - 1];
		page->count = count - at < full ? count - at : full;
		memcpy(page->rules, &nodes[at], page->count * sizeof(nodes[0]));
	}
	return 0;
}

int rule_list_number(struct rule_list *list)
{
	uint32_t number = 0;

	list->first = calloc((size_t)list->count + 1, sizeof(list->first[0]));
	if (!list->first)
		return -ENOMEM;
	for (uint32_t i = 0; i < list->count; i++) {
		list->first[i] = number;
		number += list->pages[i]->count;
	}
	list->first[list->count] = number;
	return 0;
}

struct rule_node *rule_list_at(const struct rule_list *list, uint32_t index)
{
	uint32_t first = 0, count = list->count;

	if (!count || index >= list->first[list->count])
		return NULL;
	while (count > 1) {
		uint32_t half = count / 2;

		if (list->first[first + half] <= index) {
			first += half;
			count -= half;
		} else {
			count = half;
		}
	}
	return list->pages[first]->rules[index - list->first[first]];
}
