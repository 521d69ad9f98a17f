/* What the probes need of bcc: compiled when they are loaded, against whatever kernel headers are there.
 *
 * The loader makes the maps and gives their descriptors (FD_...), and the offsets of the kernel's fields where it knows
 * them better than the headers (AT_..., from BTF); HEADERS says that those of the headers hold. bcc puts every function
 * that is not inlined into a program of its own, so all are.
 */
#include "records.h"

#ifdef HEADERS
#include <linux/fdtable.h>
#include <linux/fs.h>
#include <linux/fs_struct.h>
#include <linux/mm_types.h>
#include <linux/mount.h>
#include <linux/ns_common.h>
#include <linux/nsproxy.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/version.h>

/* The beginnings of what fs/mount.h keeps to itself (Linux 5.11 to 6.18). */
struct mount {
	struct hlist_node mnt_hash;
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};
struct mnt_namespace {
	struct ns_common ns;
};
#define AT(name, in, path) offsetof(struct in, path)
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
#define RENAMED(function, type, in, path, path_6_6, path_before) FIELD(function, type, in, path)
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
#define RENAMED(function, type, in, path, path_6_6, path_before) FIELD(function, type, in, path_6_6)
#else
#define RENAMED(function, type, in, path, path_6_6, path_before) FIELD(function, type, in, path_before)
#endif
#else
#define AT(name, in, path) AT_##name
#define RENAMED(function, type, in, path, path_6_6, path_before) FIELD(function, type, in, path)
#endif

#define FIELD(function, type, in, path)                                                                       \
	static __always_inline type function(__u64 at)                                                        \
	{                                                                                                     \
		type value = 0;                                                                               \
		bpf_probe_read_kernel(&value, sizeof(value), (void *)(at + AT(function, in, path)));          \
		return value;                                                                                 \
	}
#define OFFSET(name, in, path)                                                                                \
	static __always_inline __u64 name(void)                                                               \
	{                                                                                                     \
		return AT(name, in, path);                                                                    \
	}
#include "kernel.h"

#define MAP(map) ((void *)bpf_pseudo_fd(1, FD_##map))

#define PROBE(name, tracepoint) int name(struct bpf_raw_tracepoint_args *ctx)
#define QUESTION(name) int name(struct bpf_raw_tracepoint_args *ctx)
#define ARGUMENT(n) ctx->args[n]

#define ONCE static __always_inline
#define LOOPS(function, times, about) 0
#define LOOPED(function, type)
#define APART static __always_inline

typedef __u64 regs_t;

static __always_inline __u64 caller_task(void)
{
	return bpf_get_current_task();
}

static __always_inline __u32 caller_status(void)
{
	return read_task_status(bpf_get_current_task());
}

static __always_inline __u32 half_of(regs_t regs)
{
	return regs;
}

static __always_inline __u64 distance_of(regs_t regs, void *from)
{
	return regs;
}

static __always_inline __u32 nr_of(regs_t regs)
{
	__u64 nr = 0;

	bpf_probe_read_kernel(&nr, sizeof(nr), (void *)(regs + offsetof(struct registers, orig_ax)));
	return nr;
}

#define read_args read_args_at
