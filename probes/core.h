/* What the probes need of libbpf: compiled ahead of time, relocated against the running kernel's BTF.
 *
 * Kernel types are declared here with just the fields that are read; libbpf finds their real offsets.
 */
typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
};
enum {
	BPF_F_NO_PREALLOC = 1,
};
enum bpf_func_id {
	BPF_FUNC_loop = 181, /* Linux 5.17 */
};
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_STACK = 23,
	BPF_MAP_TYPE_RINGBUF = 27,
};

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "records.h"

char LICENSE[] SEC("license") = "GPL";

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct thread_info {
	__u32 status;
};

struct qstr {
	__u32 hash;
	__u32 len;
	const unsigned char *name;
};

struct super_block {
	__u32 s_dev;
};

struct inode {
	unsigned long i_ino;
	__u32 i_generation;
	struct super_block *i_sb;
	__s64 i_size;
	__s64 i_ctime_sec;
	__u32 i_ctime_nsec;
};

struct timespec64 {
	__s64 tv_sec;
	long tv_nsec;
};

struct inode___6_6 {
	struct timespec64 __i_ctime;
};

struct inode___before {
	struct timespec64 i_ctime;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
};

struct vfsmount {
	struct dentry *mnt_root;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	struct path f_path;
	struct inode *f_inode;
};

struct fdtable {
	__u32 max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct fs_struct {
	struct path root;
};

struct ns_common {
	__u32 inum;
};

struct mnt_namespace {
	struct ns_common ns;
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
};

struct mm_struct {
	struct file *exe_file;
};

struct signal_struct {
	unsigned int flags;
};

struct task_struct {
	struct thread_info thread_info;
	void *stack;
	int exit_code;
	int pid;
	int tgid;
	struct task_struct *real_parent;
	struct signal_struct *signal;
	struct mm_struct *mm;
	struct nsproxy *nsproxy;
	struct files_struct *files;
	struct fs_struct *fs;
};

struct pt_regs {
	unsigned long r10, r9, r8, bp, bx, ax, cx, dx, si, di, orig_ax;
};

#pragma clang attribute pop

#define FIELD(function, type, in, path)                                                                       \
	static __always_inline type function(__u64 at)                                                        \
	{                                                                                                     \
		return (type)BPF_CORE_READ((struct in *)at, path);                                            \
	}
#define RENAMED(function, type, in, path, path_6_6, path_before)                                              \
	static __always_inline type function(__u64 at)                                                        \
	{                                                                                                     \
		if (bpf_core_field_exists(((struct in *)0)->path))                                            \
			return (type)BPF_CORE_READ((struct in *)at, path);                                    \
		if (bpf_core_field_exists(((struct in##___6_6 *)0)->path_6_6))                                \
			return (type)BPF_CORE_READ((struct in##___6_6 *)at, path_6_6);                        \
		return (type)BPF_CORE_READ((struct in##___before *)at, path_before);                          \
	}
#define OFFSET(name, in, path)                                                                                \
	static __always_inline __u64 name(void)                                                               \
	{                                                                                                     \
		return bpf_core_field_offset(struct in, path);                                                \
	}
#include "kernel.h"

#define HASH_MAP(name, key_type, value_type, entries, how)                                                    \
	struct {                                                                                              \
		__uint(type, BPF_MAP_TYPE_HASH);                                                              \
		__type(key, key_type);                                                                        \
		__type(value, value_type);                                                                    \
		__uint(max_entries, entries);                                                                 \
		__uint(map_flags, how);                                                                       \
	} name SEC(".maps");

#define ARRAY_MAP(name, value_type, entries)                                                                  \
	struct {                                                                                              \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                             \
		__type(key, __u32);                                                                           \
		__type(value, value_type);                                                                    \
		__uint(max_entries, entries);                                                                 \
	} name SEC(".maps");

#define STACK_MAP(name, value_type, entries)                                                                  \
	struct {                                                                                              \
		__uint(type, BPF_MAP_TYPE_STACK);                                                             \
		__uint(key_size, 0);                                                                          \
		__type(value, value_type);                                                                    \
		__uint(max_entries, entries);                                                                 \
	} name SEC(".maps");

#define RING_MAP(name, bytes)                                                                                 \
	struct {                                                                                              \
		__uint(type, BPF_MAP_TYPE_RINGBUF);                                                           \
		__uint(max_entries, bytes);                                                                   \
	} name SEC(".maps");
#include "maps.h"

#define MAP(map) (&map)

#define PROBE(name, tracepoint)                                                                               \
	SEC("tp_btf/" tracepoint)                                                                             \
	int name(__u64 *ctx)
#define QUESTION(name)                                                                                        \
	SEC("raw_tp")                                                                                         \
	int name(__u64 *ctx)
#define ARGUMENT(n) ctx[n]

/* Verified once, not for each state of each caller; not static for that. */
#define ONCE __noinline

/* Call a function some times, or until it returns 1; says whether this kernel can. The verifier walks a loop as often
 * as the loop does, such a function once.
 */
#define LOOPS(function, times, about)                                                                         \
	(bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_loop) &&                                       \
	 (bpf_loop(times, in_loop_##function, about, 0), 1))
#define LOOPED(function, type)                                                                                \
	static long in_loop_##function(__u32 i, type *about)                                                  \
	{                                                                                                     \
		return function(about);                                                                       \
	}
#define APART static __noinline

/* The registers as the tracepoints give them: read without asking anybody. */
typedef struct pt_regs *regs_t;

static __always_inline __u64 caller_task(void)
{
	return (__u64)bpf_get_current_task_btf();
}

static __always_inline __u32 caller_status(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return task->thread_info.status;
}

/* The lower half of the address: the verifier lets nobody calculate with such a pointer. */
static __always_inline __u32 half_of(regs_t regs)
{
	__u32 half;

	asm volatile("%0 = %1" : "=w"(half) : "w"((__u32)(__u64)regs));
	return half;
}

/* The address less another one that stays the same: the difference of two pointers is the number the verifier allows. */
static __always_inline __u64 distance_of(regs_t regs, void *from)
{
	return (__u64)regs - (__u64)from;
}

static __always_inline __u32 nr_of(regs_t regs)
{
	return regs->orig_ax;
}

static __always_inline void read_args(__u64 *args, regs_t regs, __u32 arch)
{
	ARGS_FROM(args, regs, arch);
}
