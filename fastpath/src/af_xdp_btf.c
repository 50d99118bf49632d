/*
 * AF_XDP: the number by which a program calls a function of the kernel (kfunc). It is that of the
 * function's type in the kernel's own BTF, which /sys/kernel/btf/vmlinux holds.
 *
 * Format: kernel Documentation/bpf/btf.rst.
 *
 * Runs on: the keeper.
 */
#include <fcntl.h>
#include <linux/btf.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "af_xdp.h"

static const char VMLINUX[] = "/sys/kernel/btf/vmlinux";

struct types {
	const uint8_t *types;
	const char *strings;
	uint32_t types_bytes;
	uint32_t strings_bytes;
};

/* What follows a type's head; bounded by the file when it is used. */
static uint64_t tail_bytes(const struct btf_type *type)
{
	uint64_t members = BTF_INFO_VLEN(type->info);

	switch (BTF_INFO_KIND(type->info)) {
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case BTF_KIND_DECL_TAG:
		return sizeof(uint32_t);
	case BTF_KIND_ARRAY:
		return sizeof(struct btf_array);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		return members * sizeof(struct btf_member);
	case BTF_KIND_ENUM:
		return members * sizeof(struct btf_enum);
	case BTF_KIND_ENUM64:
		return members * sizeof(struct btf_enum64);
	case BTF_KIND_FUNC_PROTO:
		return members * sizeof(struct btf_param);
	case BTF_KIND_DATASEC:
		return members * sizeof(struct btf_var_secinfo);
	default:
		return 0;
	}
}

static uint32_t function_find(const struct types *all, const char *name)
{
	size_t length = strlen(name) + 1;
	uint64_t at = 0;

	for (uint32_t id = 1; at + sizeof(struct btf_type) <= all->types_bytes; id++) {
		const struct btf_type *type = (const struct btf_type *)(all->types + at);

		if (BTF_INFO_KIND(type->info) == BTF_KIND_FUNC &&
		    type->name_off + length <= all->strings_bytes &&
		    !memcmp(all->strings + type->name_off, name, length))
			return id;
		at += sizeof(*type) + tail_bytes(type);
	}
	return 0;
}

static bool header_read(const uint8_t *file, size_t bytes, struct types *all)
{
	const struct btf_header *header = (const struct btf_header *)file;
	uint64_t types, strings;

	if (bytes < sizeof(*header) || header->magic != BTF_MAGIC)
		return false;
	types = (uint64_t)header->hdr_len + header->type_off;
	strings = (uint64_t)header->hdr_len + header->str_off;
	if (types + header->type_len > bytes || strings + header->str_len > bytes || types % 4)
		return false;
	*all = (struct types){
	    .types = file + types,
	    .strings = (const char *)file + strings,
	    .types_bytes = header->type_len,
	    .strings_bytes = header->str_len,
	};
	return true;
}

/* The file of sysfs cannot be mapped on every kernel. */
static uint8_t *file_read(size_t *bytes)
{
	struct stat info;
	uint8_t *file = NULL;
	size_t done = 0;
	int fd = open(VMLINUX, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return NULL;
	if (!fstat(fd, &info) && info.st_size > 0)
		file = mmap(NULL, (size_t)info.st_size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!file || file == MAP_FAILED) {
		close(fd);
		return NULL;
	}
	while (done < (size_t)info.st_size) {
		ssize_t n = read(fd, file + done, (size_t)info.st_size - done);

		if (n <= 0)
			break;
		done += (size_t)n;
	}
	close(fd);
	*bytes = (size_t)info.st_size; /* what could not be read is 0 */
	return file;
}

uint32_t xdp_kernel_function(const char *name)
{
	struct types all;
	size_t bytes = 0;
	uint8_t *file = file_read(&bytes);
	uint32_t id = 0;

	if (!file)
		return 0;
	if (header_read(file, bytes, &all))
		id = function_find(&all, name);
	munmap(file, bytes);
	return id;
}
