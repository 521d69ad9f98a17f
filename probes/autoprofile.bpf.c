/* The probes. One source, loaded in two ways: compiled ahead of time for libbpf, or by bcc when it is loaded. */
#ifdef AUTOPROFILE_BCC
#include "bcc.h"
#else
#include "core.h"
#endif
#include "counting.h"

/* ------------------------------------------------------------------------------------------- identities */

struct walk {
	struct event *event;
	__u64 dentry;
	__u64 mount;
};

/* Write the name of one directory before those below it, or leave a mount; 1 at the end. */
static __always_inline int step_up(struct walk *walk)
{
	__u64 dentry = walk->dentry, mount = walk->mount, parent = read_dentry_parent(dentry), name;
	struct event *event = walk->event;
	__u32 length, at;

	if (dentry == read_mount_root(mount) || dentry == parent) {
		parent = read_mount_parent(mount);
		if (mount == parent)
			return 1;
		walk->dentry = read_mount_point(mount);
		walk->mount = parent;
		return 0;
	}
	name = read_dentry_name(dentry);
	length = read_dentry_length(dentry);
	/* Kept in memory, where the verifier does not follow its values: else it walks every combination. */
	at = event->path_at;
	if (length >= NAME_BYTES || at > PATH_BYTES || length + 1 > at)
		return 1;
	at -= length + 1;
	event->path_at = at;
	event->path[at & (PATH_BYTES - 1)] = '/';
	bpf_probe_read_kernel(&event->path[(at + 1) & (PATH_BYTES - 1)], length & (NAME_BYTES - 1), (void *)name);
	walk->dentry = parent;
	return 0;
}

LOOPED(step_up, struct walk)
#define PATH_STEPS 48 /* directories and mounts */

APART int write_path(struct event *event, __u64 file)
{
	struct walk walk = { .event = event };

	if (!event || !file)
		return 0;
	walk.dentry = read_file_dentry(file);
	walk.mount = read_file_mount(file) - MOUNT_INSIDE();
	if (LOOPS(step_up, PATH_STEPS, &walk))
		return 0;
	for (int i = 0; i < PATH_STEPS; i++)
		if (step_up(&walk))
			break;
	return 0;
}

static __always_inline struct event *new_event(__u32 kind)
{
	struct event *event = bpf_ringbuf_reserve(MAP(events), sizeof(*event), 0);

	if (event) {
		event->kind = kind;
		event->path_at = PATH_BYTES;
	}
	return event;
}

/* The id of a file, told to the loader with its path the first time it is seen. */
ONCE __u32 file_id(__u64 file, __u32 tgid, __u32 is_program)
{
	struct totals *all = totals_of();
	struct file_key key = {};
	struct event *event;
	__u32 *known, id;
	__u64 inode, task;

	if (!file || !all)
		return 0;
	inode = read_file_inode(file);
	task = caller_task();
	key.size = read_inode_size(inode);
	key.changed_s = read_inode_changed_s(inode);
	/* Without the bit that says whether somebody has asked (I_CTIME_QUERIED, include/linux/fs.h, Linux 6.13). */
	key.changed_ns = read_inode_changed_ns(inode) & 0x3FFFFFFF;
	key.name = read_dentry_hash(read_file_dentry(file));
	key.ino = read_inode_number(inode);
	key.dev = read_super_device(read_inode_super(inode));
	key.generation = read_inode_generation(inode);
	/* A library may be run as a program, too (ld.so): told apart by the lowest bit of an aligned pointer. */
	key.dentry = read_file_dentry(file) | is_program;
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
	event = new_event(EVENT_FILE);
	if (!event) {
		ADD(&all->ring_full, 1);
		return id;
	}
	event->file = id;
	event->pid = tgid;
	event->ino = key.ino;
	event->is_program = is_program;
	event->mount_space = read_mount_space_number(read_nsproxy_mount_space(read_task_nsproxy(task)));
	event->root = read_fs_root(read_task_fs(task));
	event->changed_ns = key.changed_ns;
	event->changed_s = key.changed_s;
	write_path(event, file);
	bpf_ringbuf_submit(event, 0);
	return id;
}

static __always_inline __u64 file_of_descriptor(__u32 fd)
{
	__u64 table = read_files_table(read_task_files(caller_task())), file = 0;

	if (fd < read_table_size(table))
		bpf_probe_read_kernel(&file, sizeof(file), (void *)(read_table_slots(table) + 8ULL * fd));
	return file;
}

/* A file is mapped with instructions. */
APART int note_mapped(__u32 fd)
{
	__u64 file = (__s32)fd >= 0 ? file_of_descriptor(fd) : 0;

	if (file)
		file_id(file, bpf_get_current_pid_tgid() >> 32, 0);
	return 0;
}

static __always_inline __u32 program_of(__u64 task, __u32 tgid)
{
	return file_id(read_mm_exe_file(read_task_mm(task)), tgid, 1);
}

/* -------------------------------------------------------------------------------------------- membership */

static __always_inline int is_in_cgroup(struct config *config)
{
	return bpf_get_current_ancestor_cgroup_id(config->cgroup_level) == config->cgroup_id;
}

APART struct thread *adopt_caller(void)
{
	struct config *config = config_of();
	struct thread *thread;
	struct totals *all;
	__u64 pid_tgid;

	if (!config || !(config->flags & CONFIG_CGROUP))
		return 0;
	pid_tgid = bpf_get_current_pid_tgid();
	if (pid_tgid >> 32 == config->own_tgid || !is_in_cgroup(config))
		return 0;
	all = totals_of();
	if (all)
		ADD(&all->adopted, 1);
	thread = adopt(pid_tgid, pid_tgid >> 32);
	if (thread)
		thread->program = program_of(caller_task(), pid_tgid >> 32);
	return thread;
}

static __always_inline int is_adopted_at_exec(__u64 task)
{
	struct config *config = config_of();

	if (!config || !config->flags)
		return 0;
	if (config->flags & CONFIG_CGROUP_EXEC && is_in_cgroup(config))
		return 1;
	if (config->flags & CONFIG_CHILD && read_task_tgid(read_task_parent(task)) == config->own_tgid)
		return 1;
	return config->flags & CONFIG_MOUNT_SPACE &&
	       read_mount_space_number(read_nsproxy_mount_space(read_task_nsproxy(task))) == config->mount_space;
}

/* ------------------------------------------------------------------------------------------------- hooks */

/* The member that calls, made one if it is to be; null for a stranger. */
static __always_inline struct thread *caller_of(regs_t regs, int *is_new)
{
	struct thread *thread = thread_at(regs);

	if (thread || is_stranger(regs))
		return thread;
	thread = find_caller(regs);
	if (thread)
		return thread;
	*is_new = 1;
	return adopt_caller();
}

static __always_inline int enter(regs_t regs, __u32 nr, __u32 flags)
{
	int is_new = 0;
	struct thread *thread = caller_of(regs, &is_new);

	if (thread)
		on_enter(thread, regs, nr, flags);
	return 0;
}

PROBE(sys_enter, "sys_enter")
{
	return enter((regs_t)ARGUMENT(0), ARGUMENT(1), THREAD_IN_CALL);
}

/* Instead of sys_enter and sys_exit, where only the calls are wanted. */
PROBE(sys_enter_only, "sys_enter")
{
	return enter((regs_t)ARGUMENT(0), ARGUMENT(1), 0);
}

/* The end of a call that has more to say than that it succeeded. */
APART int end_oddly(struct thread *thread, regs_t regs, __s64 ret)
{
	__u32 nr = nr_of(regs), arch = arch_of(caller_status(), nr), flags = thread->flags;
	__u64 args[6];

	read_args(args, regs, arch);
	if (arch == ARCH_I386)
		ret = (__s32)ret;
	if (!(flags & THREAD_IN_CALL)) {
		on_answered(thread, arch, nr, args, ret);
		return 0;
	}
	if (flags & THREAD_MAPS_CODE && !is_error(ret))
		note_mapped(args[4]);
	thread->flags = 0;
	count_return(&thread->slots[thread->slot & (SLOTS - 1)], ret);
	return 0;
}

PROBE(sys_exit, "sys_exit")
{
	regs_t regs = (regs_t)ARGUMENT(0);
	__s64 ret = ARGUMENT(1);
	int is_new = 0;
	struct thread *thread = caller_of(regs, &is_new);

	if (!thread)
		return 0;
	/* It may never be seen at sys_enter: whoever is refused its first call here ends. */
	if (is_new)
		thread->flags = (thread->flags & ~THREAD_SKIP_EXIT) | THREAD_UNSURE;
	/* Of an i386 call only the lower half counts. */
	if (thread->flags != THREAD_IN_CALL || (__u32)ret >= (__u32)-MAX_ERRNO)
		return end_oddly(thread, regs, ret);
	thread->flags = 0;
	thread->slots[thread->slot & (SLOTS - 1)].cell.last_return = 0;
	return 0;
}

/* A call through the vsyscall page is done in the page fault, and passes neither sys_enter nor sys_exit
 * (arch/x86/entry/vsyscall/vsyscall_64.c). A filter decides afterwards: what it refuses is counted, too, and what comes of
 * any is not seen.
 */
PROBE(emulate_vsyscall, "emulate_vsyscall")
{
	__u32 which = ARGUMENT(0);
	struct thread *thread;

	if (which > 2) /* -1: no such call; the program gets SIGSEGV */
		return 0;
	thread = thread_of(bpf_get_current_pid_tgid());
	if (!thread)
		thread = adopt_caller();
	if (!thread)
		return 0;
	if (thread->flags & THREAD_NEWBORN)
		born(thread, is_caller_leader());
	/* gettimeofday, time, getcpu */
	count_call(thread, ARCH_X86_64, which == 0 ? 96 : which == 1 ? 201 : 309, 0, 0)->cell.unended++;
	return 0;
}

PROBE(sched_process_fork, "sched_process_fork")
{
	on_fork(read_task_pid(ARGUMENT(0)), read_task_pid(ARGUMENT(1)), read_task_stack(ARGUMENT(1)));
	return 0;
}

PROBE(sched_process_exec, "sched_process_exec")
{
	__u64 task = ARGUMENT(0), pid_tgid = bpf_get_current_pid_tgid();
	__u32 tid = pid_tgid, old_tid = ARGUMENT(1);

	if (!thread_of(old_tid)) {
		if (!is_adopted_at_exec(task))
			return 0;
		adopt(tid, tid);
		old_tid = tid;
	}
	on_exec(tid, old_tid, program_of(task, pid_tgid >> 32));
	return 0;
}

#define SIGNAL_GROUP_EXIT 4 /* include/linux/sched/signal.h: the whole process ends */
#define SIGSYS 31

/* Where sys_exit is watched, too: a thread that seccomp killed alone has none. */
APART int note_killed(void)
{
	__u64 task = caller_task(), regs, args[6];
	struct totals *all = totals_of();
	struct thread *thread;
	__u32 nr = 0, arch;

	if (read_task_exit_code(task) != SIGSYS || read_signal_flags(read_task_signal(task)) & SIGNAL_GROUP_EXIT)
		return 0;
	thread = thread_of(bpf_get_current_pid_tgid());
	if (!thread || thread->flags & THREAD_IN_CALL || !all || !all->regs_at)
		return 0;
	regs = read_task_stack(task) + all->regs_at;
	bpf_probe_read_kernel(&nr, sizeof(nr), (void *)(regs + offsetof(struct registers, orig_ax)));
	arch = arch_of(caller_status(), nr);
	read_args_at(args, regs, arch);
	count_refused(thread, (__u64)arch << 32 | nr, (void *)args, nr, 0);
	return 0;
}

static __always_inline int end_caller(void)
{
	struct event *event;

	if (!on_end())
		return 0;
	event = new_event(EVENT_END);
	if (event)
		bpf_ringbuf_submit(event, 0);
	return 0; /* without: the loader looks at `live` a few times a second, too */
}

PROBE(sched_process_exit, "sched_process_exit")
{
	note_killed();
	return end_caller();
}

/* Beside sys_enter_only. */
PROBE(sched_process_exit_only, "sched_process_exit")
{
	return end_caller();
}

/* What the loader asks: run by bpf(2), attached to nothing. */
QUESTION(ask)
{
	__u32 what = ARGUMENT(0), subject = ARGUMENT(1);
	__u64 task = caller_task(), file;
	struct thread *thread;

	switch (what) {
	case ASK_FOLLOW:
		if (thread_of(subject))
			return ANSWER_IS_MEMBER;
		thread = new_member(subject);
		if (!thread)
			return ANSWER_FULL;
		thread->program = ARGUMENT(2);
		thread->process = ARGUMENT(3);
		thread->flags = ARGUMENT(4);
		begin_era();
		return ANSWER_FOLLOWED;
	case ASK_FORGET:
		return forget(subject);
	case ASK_SELF:
		if (subject == ASK_THREAD)
			return read_task_pid(task);
		if (subject == ASK_PROCESS)
			return read_task_tgid(task);
		if (subject == ASK_PARENT)
			return read_task_tgid(read_task_parent(task));
		if (subject == ASK_MOUNT_SPACE)
			return read_mount_space_number(read_nsproxy_mount_space(read_task_nsproxy(task)));
		if (subject == ASK_ROOT)
			return read_fs_root(read_task_fs(task));
		if (subject == ASK_PROGRAM)
			return program_of(task, bpf_get_current_pid_tgid() >> 32);
		file = file_of_descriptor(subject - ASK_DESCRIPTOR);
		return file ? read_inode_number(read_file_inode(file)) : 0;
	}
	return 0;
}
