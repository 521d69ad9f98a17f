/* The CO-RE probes: compiled ahead of time, relocated by libbpf against the running kernel's BTF.
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
	BPF_FUNC_task_pt_regs = 175,
};
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_RINGBUF = 27,
};

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "GPL";

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct thread_info {
	__u32 status;
};

struct qstr {
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
	int pid;
	int tgid;
	int exit_code;
	struct signal_struct *signal;
	struct mm_struct *mm;
	struct nsproxy *nsproxy;
	struct files_struct *files;
	struct task_struct *real_parent;
};

struct pt_regs {
	unsigned long r10, r9, r8, bp, bx, ax, cx, dx, si, di, orig_ax;
};

#pragma clang attribute pop

#include "records.h"

#define HASH_MAP(name, key_type, value_type, entries, how)                                                    \
	struct {                                                                                              \
		__uint(type, BPF_MAP_TYPE_HASH);                                                              \
		__type(key, key_type);                                                                        \
		__type(value, value_type);                                                                    \
		__uint(max_entries, entries);                                                                 \
		__uint(map_flags, how);                                                                       \
	} name SEC(".maps")

#define SINGLE(name, value_type)                                                                              \
	struct {                                                                                              \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                             \
		__type(key, __u32);                                                                           \
		__type(value, value_type);                                                                    \
		__uint(max_entries, 1);                                                                       \
	} name SEC(".maps")

/* Preallocated where a failed allocation would lose something. */
HASH_MAP(threads, __u32, struct thread, 8192, 0);
HASH_MAP(processes, __u32, struct process, 4096, 0);
HASH_MAP(cells, struct cell_key, struct cell, 16384, 0);
HASH_MAP(plain, __u64, struct cell, 4096, 0);
HASH_MAP(files, struct file_key, __u32, 4096, 0);
HASH_MAP(seen, struct seen_key, __u8, 1048576, BPF_F_NO_PREALLOC);
SINGLE(layouts, struct layouts);
SINGLE(configs, struct config);
SINGLE(totals, struct totals);
SINGLE(blank, struct process);
SINGLE(nobody, struct thread);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct condition);
	__uint(max_entries, CONDITIONS);
} conditions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20); /* a thousand programs and libraries not yet read */
} events SEC(".maps");

#define LOOKUP(map, key) bpf_map_lookup_elem(&map, key)
#define INSERT(map, key, value) bpf_map_update_elem(&map, key, value, BPF_NOEXIST)
#define DELETE(map, key) bpf_map_delete_elem(&map, key)
#define ADD(where, n) __sync_fetch_and_add(where, n)
#define FETCH_ADD(where, n) __sync_fetch_and_add(where, n)
#define FETCH_OR(where, n) __sync_fetch_and_or(where, n)

#include "counting.h"

#define TS_COMPAT 0x0002 /* arch/x86/include/asm/thread_info.h: in a 32-bit call, whatever the program */

static __always_inline __u32 arch_of(struct task_struct *task, __u32 nr)
{
	if (task->thread_info.status & TS_COMPAT)
		return ARCH_I386;
	return nr & 0x40000000u && nr < 0x80000000u ? ARCH_X32 : ARCH_X86_64;
}

#define READ_ARGS(args, regs, arch)                                                                           \
	__u64 args[6];                                                                                        \
	if (arch == ARCH_I386) {                                                                              \
		args[0] = (__u32)regs->bx;                                                                    \
		args[1] = (__u32)regs->cx;                                                                    \
		args[2] = (__u32)regs->dx;                                                                    \
		args[3] = (__u32)regs->si;                                                                    \
		args[4] = (__u32)regs->di;                                                                    \
		args[5] = (__u32)regs->bp;                                                                    \
	} else {                                                                                              \
		args[0] = regs->di;                                                                           \
		args[1] = regs->si;                                                                           \
		args[2] = regs->dx;                                                                           \
		args[3] = regs->r10;                                                                          \
		args[4] = regs->r8;                                                                           \
		args[5] = regs->r9;                                                                           \
	}

/* ------------------------------------------------------------------------------------------- identities */

static __noinline int write_path(struct event *event, struct file *file)
{
	struct dentry *dentry, *parent, *top;
	struct vfsmount *vfsmount;
	struct mount *mount, *mount_parent;

	if (!event || !file)
		return 0;
	dentry = BPF_CORE_READ(file, f_path.dentry);
	vfsmount = BPF_CORE_READ(file, f_path.mnt);
	mount = (void *)vfsmount - bpf_core_field_offset(struct mount, mnt);
	for (int i = 0; i < 48; i++) {
		const unsigned char *name;
		__u32 length, at;

		top = BPF_CORE_READ(mount, mnt.mnt_root);
		parent = BPF_CORE_READ(dentry, d_parent);
		if (dentry == top || dentry == parent) {
			mount_parent = BPF_CORE_READ(mount, mnt_parent);
			if (mount == mount_parent)
				break;
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			mount = mount_parent;
			continue;
		}
		name = BPF_CORE_READ(dentry, d_name.name);
		length = BPF_CORE_READ(dentry, d_name.len);
		/* Kept in memory, where the verifier does not follow its values: else it walks every combination. */
		at = event->path_at;
		if (length >= NAME_BYTES || at > PATH_BYTES || length + 1 > at)
			break;
		at -= length + 1;
		event->path_at = at;
		event->path[at & (PATH_BYTES - 1)] = '/';
		bpf_probe_read_kernel(&event->path[(at + 1) & (PATH_BYTES - 1)], length & (NAME_BYTES - 1), name);
		dentry = parent;
	}
	return 0;
}

/* The id of a file, told to the loader with its path the first time it is seen.
 *
 * Not static: so the verifier walks it once, not for each state of each caller (a tenth of a second).
 */
__noinline __u32 file_id(__u64 address, __u32 tgid, __u32 is_program)
{
	struct file *file = (struct file *)address;
	struct totals *all = totals_of();
	struct file_key key = {};
	struct event *event;
	__u32 *known, id;

	if (!file || !all)
		return 0;
	key.dentry = (__u64)BPF_CORE_READ(file, f_path.dentry);
	key.ino = BPF_CORE_READ(file, f_inode, i_ino);
	key.dev = BPF_CORE_READ(file, f_inode, i_sb, s_dev);
	key.generation = BPF_CORE_READ(file, f_inode, i_generation);
	/* A library may be run as a program, too (ld.so): told apart by the lowest bit of an aligned pointer. */
	key.dentry |= is_program;
	known = LOOKUP(files, &key);
	if (known)
		return *known;
	id = FETCH_ADD(&all->next_file, 1) + 1;
	if (INSERT(files, &key, &id) != 0) {
		known = LOOKUP(files, &key);
		if (known)
			return *known;
		ADD(&all->files_full, 1);
		return 0;
	}
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		ADD(&all->ring_full, 1);
		return id;
	}
	event->kind = EVENT_FILE;
	event->file = id;
	event->pid = tgid;
	event->path_at = PATH_BYTES;
	event->ino = key.ino;
	event->is_program = is_program;
	event->reserved = 0;
	write_path(event, file);
	bpf_ringbuf_submit(event, 0);
	return id;
}

static __noinline int note_library(struct task_struct *task, __u32 fd)
{
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **slots = BPF_CORE_READ(table, fd);
	struct file *file = 0;

	if (fd >= BPF_CORE_READ(table, max_fds))
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), slots + fd);
	if (file)
		file_id((__u64)file, BPF_CORE_READ(task, tgid), 0);
	return 0;
}

/* -------------------------------------------------------------------------------------------- membership */

static __noinline struct thread *adopt_caller(__u64 pid_tgid)
{
	__u32 zero = 0, tid = pid_tgid, tgid = pid_tgid >> 32;
	struct config *config = LOOKUP(configs, &zero);
	struct task_struct *task;
	__u32 file;

	if (!config || !(config->flags & CONFIG_CGROUP) || tgid == config->own_tgid)
		return 0;
	if (bpf_get_current_ancestor_cgroup_id(config->cgroup_level) != config->cgroup_id)
		return 0;
	task = bpf_get_current_task_btf();
	file = file_id((__u64)BPF_CORE_READ(task, mm, exe_file), tgid, 1);
	adopt(tid, tgid);
	on_exec(tid, tid, file);
	return LOOKUP(threads, &tid);
}

static __always_inline int is_adopted_at_exec(struct task_struct *task)
{
	__u32 zero = 0;
	struct config *config = LOOKUP(configs, &zero);

	if (!config || !config->flags)
		return 0;
	if (config->flags & CONFIG_CGROUP_EXEC &&
	    bpf_get_current_ancestor_cgroup_id(config->cgroup_level) == config->cgroup_id)
		return 1;
	if (config->flags & CONFIG_CHILD && BPF_CORE_READ(task, real_parent, tgid) == config->own_tgid)
		return 1;
	return config->flags & CONFIG_MOUNT_SPACE &&
	       BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum) == config->mount_space;
}

/* ------------------------------------------------------------------------------------------------- hooks */

SEC("tp_btf/sys_enter")
int sys_enter(__u64 *ctx)
{
	struct pt_regs *regs = (void *)ctx[0];
	__u32 nr = ctx[1];
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 tid = task->pid;
	struct thread *thread = LOOKUP(threads, &tid);
	__u64 pid_tgid;
	__u32 arch;

	pid_tgid = (__u64)task->tgid << 32 | tid;
	if (!thread) {
		thread = adopt_caller(pid_tgid);
		if (!thread)
			return 0;
	}
	arch = arch_of(task, nr);
	READ_ARGS(args, regs, arch)
	on_enter(thread, pid_tgid, arch, nr, args);
	return 0;
}

/* Instead of the two others, where only the calls are wanted: half the cost. */
SEC("tp_btf/sys_enter")
int sys_enter_only(__u64 *ctx)
{
	struct pt_regs *regs = (void *)ctx[0];
	__u32 nr = ctx[1];
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 tid = task->pid;
	struct thread *thread = LOOKUP(threads, &tid);
	__u64 pid_tgid;
	__u32 arch;

	pid_tgid = (__u64)task->tgid << 32 | tid;
	if (!thread) {
		thread = adopt_caller(pid_tgid);
		if (!thread)
			return 0;
	}
	arch = arch_of(task, nr);
	READ_ARGS(args, regs, arch)
	on_enter_only(thread, pid_tgid, arch, nr, args);
	return 0;
}

SEC("tp_btf/sys_exit")
int sys_exit(__u64 *ctx)
{
	struct pt_regs *regs = (void *)ctx[0];
	__s64 ret = ctx[1];
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 tid = task->pid;
	struct thread *thread = LOOKUP(threads, &tid);
	__u64 pid_tgid;
	__u32 arch, nr;

	pid_tgid = (__u64)task->tgid << 32 | tid;
	if (!thread) {
		/* It may never be seen at sys_enter: whoever is refused its first call here ends. */
		thread = adopt_caller(pid_tgid);
		if (!thread)
			return 0;
		thread->flags = (thread->flags & ~THREAD_SKIP_EXIT) | THREAD_UNSURE;
	}
	nr = regs->orig_ax;
	arch = arch_of(task, nr);
	READ_ARGS(args, regs, arch)
	if (thread->flags & THREAD_MAPS_CODE && (ret >= 0 || ret < -MAX_ERRNO) && (__s32)args[4] >= 0)
		note_library(task, args[4]);
	on_exit(thread, pid_tgid, arch, nr, args, ret);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int sched_process_fork(__u64 *ctx)
{
	struct task_struct *parent = (void *)ctx[0], *child = (void *)ctx[1];

	on_fork(parent->pid, child->pid);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int sched_process_exec(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	__u32 tid = task->pid, old_tid = ctx[1];

	if (!LOOKUP(threads, &old_tid)) {
		if (!is_adopted_at_exec(task))
			return 0;
		adopt(tid, tid);
		old_tid = tid;
	}
	on_exec(tid, old_tid, file_id((__u64)BPF_CORE_READ(task, mm, exe_file), task->tgid, 1));
	return 0;
}

#define SIGNAL_GROUP_EXIT 4 /* include/linux/sched/signal.h: the whole process ends */
#define SIGSYS 31

/* Did seccomp end this thread alone? Only then is its death not that of its process. */
static __always_inline int is_killed_by_seccomp(struct task_struct *task)
{
	return task->exit_code == SIGSYS && !(BPF_CORE_READ(task, signal, flags) & SIGNAL_GROUP_EXIT);
}

/* Where sys_exit is watched, too: what killed the thread alone has none. */
static __noinline int note_killed(struct task_struct *task)
{
	__u32 tid = BPF_CORE_READ(task, pid), arch, nr;
	struct thread *thread = LOOKUP(threads, &tid);
	struct task_struct *current;
	struct pt_regs *regs;

	if (!thread || !bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return 0; /* before Linux 5.15 */
	current = bpf_get_current_task_btf();
	regs = (void *)bpf_task_pt_regs(current);
	nr = regs->orig_ax;
	arch = arch_of(current, nr);
	READ_ARGS(args, regs, arch)
	on_killed(thread, arch, nr, args);
	return 0;
}

static __noinline int end_of_caller(void)
{
	struct event *event;

	if (!on_end(bpf_get_current_pid_tgid()))
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0; /* the loader looks at `live` a few times a second, too */
	event->kind = EVENT_END;
	event->path_at = PATH_BYTES;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int sched_process_exit(__u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (is_killed_by_seccomp(task))
		note_killed(task);
	return end_of_caller();
}

/* Beside sys_enter_only. */
SEC("tp_btf/sched_process_exit")
int sched_process_exit_only(__u64 *ctx)
{
	return end_of_caller();
}
