/*
 * The forwarder's sandbox: ids, capabilities, system calls.
 *
 * The list allows what a running forwarder does: wait, move bytes through fds it was given, map
 * memory, start and pin threads. It names no call that makes a new way out: no socket, connect,
 * bind, execve, ptrace, no file opened for writing. Calls that only look at paths answer EACCES
 * instead of killing, because the interpreter makes them on its own (tracebacks, a late import).
 *
 * Known limit: seccomp cannot read memory, so an address inside sendmsg's or sendmmsg's headers
 * passes; sendto's is an argument and must be absent. Through the sockets of a tunnel port a
 * forwarder that was taken over therefore reaches any host by UDP, from the port's local address;
 * connected sockets would not change that, a destination in the message overrides theirs.
 * docs/overlay.md says what to do where it matters.
 *
 * The keeper is only limited in its capabilities.
 *
 * Runs on: the main thread, before any worker exists.
 */
#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/ioctl.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* clang-format off */
static const char *const allowed[] = {
	/* fds we hold; glibc makes fstat of newfstatat */
	"read", "write", "readv", "writev", "pread64", "pwrite64", "close", "lseek", "fstat",
	"newfstatat", "ftruncate", "fallocate", "fsync", "fdatasync", "dup", "dup3", "fcntl",
	"eventfd2", "memfd_create", "pipe2", "timerfd_create", "timerfd_settime",
	/* sockets we hold */
	"recvfrom", "recvmsg", "recvmmsg", "sendmsg", "sendmmsg", "accept4", "accept",
	"getsockopt", "setsockopt", "getsockname", "getpeername", "shutdown",
	/* waiting, time */
	"poll", "ppoll", "select", "pselect6", "epoll_create1", "epoll_ctl", "epoll_wait",
	"epoll_pwait", "epoll_pwait2", "futex", "futex_waitv", "nanosleep", "clock_nanosleep",
	"clock_gettime", "clock_getres", "gettimeofday", "time", "restart_syscall",
	/* memory */
	"munmap", "mremap", "madvise", "brk", "mlock", "munlock", "membarrier",
	/* threads and signals */
	"set_robust_list", "get_robust_list", "rseq", "sched_yield", "sched_setaffinity",
	"sched_getaffinity", "set_tid_address", "exit", "exit_group", "rt_sigaction",
	"rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "sigaltstack", "tgkill",
	/* facts about ourselves */
	"getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid", "getgroups",
	"getrandom", "getrusage", "getcpu", "sysinfo", "uname",
};

/* Only look; what they look at is not ours any more. */
static const char *const denied[] = {
	"openat2", "stat", "lstat", "statx", "access", "faccessat", "faccessat2", "readlink",
	"readlinkat", "getcwd", "getdents64", "statfs", "fstatfs", "prlimit64", "getrlimit",
	"setrlimit", "setpriority", "getpriority", "sched_setscheduler", "sched_getscheduler",
	"getxattr", "lgetxattr", "kill",
};
/* clang-format on */

static int rule_failed(const char *call, int rc, struct error *err)
{
	return error_set(err, -rc, "sandbox: no rule for %s: %s", call, strerror(-rc));
}

static int add_names(scmp_filter_ctx filter, uint32_t action, const char *const *names,
		     size_t count, struct error *err)
{
	for (size_t i = 0; i < count; i++) {
		int call = seccomp_syscall_resolve_name(names[i]);
		int rc;

		if (call == __NR_SCMP_ERROR)
			continue; /* this library does not know it, so the default kills */
		rc = seccomp_rule_add(filter, action, call, 0);
		if (rc)
			return rule_failed(names[i], rc, err);
	}
	return 0;
}

/* Opening to read fails with EACCES; the write modes have no rule. */
static int add_open(scmp_filter_ctx filter, struct error *err)
{
	int rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 1,
				  SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT, O_RDONLY));

	if (!rc)
		rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(open), 1,
				      SCMP_A1(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT, O_RDONLY));
	return rc ? rule_failed("open", rc, err) : 0;
}

/* Bells between programs (client_memory.h): a pair within the machine leads nowhere else. */
static int add_socketpair(scmp_filter_ctx filter, struct error *err)
{
	int rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socketpair), 1,
				  SCMP_A0(SCMP_CMP_EQ, AF_UNIX));

	return rc ? rule_failed("socketpair", rc, err) : 0;
}

/* Memory that can be executed is never made. */
static int add_memory(scmp_filter_ctx filter, struct error *err)
{
	int rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
				  SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));

	if (!rc)
		rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
				      SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	return rc ? rule_failed("mmap", rc, err) : 0;
}

/* Threads yes, processes no. glibc falls back to clone, whose flags can be read, on ENOSYS. */
static int add_threads(scmp_filter_ctx filter, struct error *err)
{
	int rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
				  SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));

	if (!rc)
		rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (!rc)
		rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
				      SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
	if (!rc)
		rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
				      SCMP_A0(SCMP_CMP_EQ, PR_SET_TIMERSLACK));
	return rc ? rule_failed("clone", rc, err) : 0;
}

/* A packet socket reaches every interface when it may name one: no address. */
static int add_send(scmp_filter_ctx filter, struct error *err)
{
	int rc =
	    seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(sendto), 1, SCMP_A4(SCMP_CMP_EQ, 0));

	return rc ? rule_failed("sendto", rc, err) : 0;
}

/*
 * Devices are asked and told, but not both at once: requests that read and write their argument
 * (both direction bits of asm-generic/ioctl.h) are the large ones. netmap's NIOCCTRL, through any
 * fd of its device, would take any interface.
 */
static int add_ioctl(scmp_filter_ctx filter, struct error *err)
{
	const uint64_t both_ways = (uint64_t)(_IOC_READ | _IOC_WRITE) << _IOC_DIRSHIFT;
	int rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				  SCMP_A1(SCMP_CMP_LT, both_ways));

	return rc ? rule_failed("ioctl", rc, err) : 0;
}

static int filter_fill(scmp_filter_ctx filter, struct error *err)
{
	int rc;

	rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
	if (rc)
		return rule_failed("all threads", rc, err);
	rc = add_names(filter, SCMP_ACT_ALLOW, allowed, sizeof(allowed) / sizeof(*allowed), err);
	if (!rc)
		rc = add_names(filter, SCMP_ACT_ERRNO(EACCES), denied,
			       sizeof(denied) / sizeof(*denied), err);
	if (!rc)
		rc = add_open(filter, err);
	if (!rc)
		rc = add_socketpair(filter, err);
	if (!rc)
		rc = add_memory(filter, err);
	if (!rc)
		rc = add_threads(filter, err);
	if (!rc)
		rc = add_send(filter, err);
	if (!rc)
		rc = add_ioctl(filter, err);
	return rc;
}

int sandbox_enter(struct error *err)
{
	scmp_filter_ctx filter;
	int rc;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return error_set(err, errno, "sandbox: no_new_privs: %s", strerror(errno));
	filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
	if (!filter)
		return error_set(err, ENOMEM, "sandbox: libseccomp gave no filter");
	rc = filter_fill(filter, err);
	if (!rc) {
		rc = seccomp_load(filter);
		if (rc)
			error_set(err, -rc, "sandbox: the kernel refused the filter: %s",
				  strerror(-rc));
	}
	seccomp_release(filter);
	return rc;
}

/* As far as SETPCAP reaches; without it the permitted set below is what counts. */
static void drop_bounding(uint64_t keep)
{
	for (int cap = 0; cap <= 63; cap++)
		if (!(keep >> cap & 1) && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1)
			(void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
}

static int drop_ids(uint32_t uid, uint32_t gid, struct error *err)
{
	if (setgroups(0, NULL))
		return error_set(err, errno, "sandbox: setgroups: %s", strerror(errno));
	if (setresgid(gid, gid, gid))
		return error_set(err, errno, "sandbox: group %u: %s", gid, strerror(errno));
	if (setresuid(uid, uid, uid))
		return error_set(err, errno, "sandbox: user %u: %s", uid, strerror(errno));
	return 0;
}

int sandbox_drop(uint32_t uid, uint32_t gid, struct error *err)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
	int rc;

	drop_bounding(0);
	if (uid) {
		rc = drop_ids(uid, gid, err);
		if (rc)
			return rc;
	}
	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (syscall(SYS_capset, &header, none))
		return error_set(err, errno, "sandbox: capset: %s", strerror(errno));
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return error_set(err, errno, "sandbox: no_new_privs: %s", strerror(errno));
	return 0;
}

int sandbox_limit(uint64_t keep, struct error *err)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];

	drop_bounding(keep);
	if (syscall(SYS_capget, &header, sets))
		return error_set(err, errno, "sandbox: capget: %s", strerror(errno));
	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		uint32_t part = (uint32_t)(keep >> (32 * i));

		sets[i].permitted &= part;
		sets[i].effective &= part;
		sets[i].inheritable &= part;
	}
	if (syscall(SYS_capset, &header, sets))
		return error_set(err, errno, "sandbox: capset: %s", strerror(errno));
	return 0;
}
